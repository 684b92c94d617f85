#pragma once
// The keys of config.json that are not sizes of the model: which of them may be left unread, and with which values.

#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "moe/model_config.hpp"
#include "runtime/core/json.hpp"

namespace supernode::moe {

/// A key that changes the mathematics must not go unseen. Every key of `json` that nobody has read is one of these:
///   harmless   names, training, sampling, storage: ignored
///   fixed      known, and allowed only with the value that this program computes: refused with any other
///   unknown    ignored when it is switched off (null, false, empty), refused otherwise
/// @param read keys that the parser has read itself; @param refuse (key, why) throws
void check_unread_keys(const Json& json, const ModelConfig& config, const std::set<std::string, std::less<>>& read,
                       const std::function<void(const std::string&, const std::string&)>& refuse);

}  // namespace supernode::moe
