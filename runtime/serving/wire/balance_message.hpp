#pragma once
// How evenly an instance used its experts, as a part of its dies' last report. Pure.

#include <map>

#include "runtime/core/byte_stream.hpp"
#include "runtime/serving/load/expert_balance.hpp"
#include "runtime/serving/record/instance_id.hpp"

namespace supernode::serving {

void put_balance(ByteWriter& to, const InstanceId& instance, const BalanceFigures& figures);
/// Adds what put_balance() wrote. @throws EnvironmentError for too few bytes
void get_balance(ByteReader& from, std::map<InstanceId, BalanceFigures>& all);

}  // namespace supernode::serving
