#include "runtime/serving/load/request_record.hpp"

namespace supernode::serving {

PartTimes& PartTimes::operator+=(const PartTimes& other) {
  queue += other.queue;
  pool += other.pool;
  prefill += other.prefill;
  handover += other.handover;
  decode += other.decode;
  exchange += other.exchange;
  return *this;
}

PartTimes parts_of(const RequestRecord& r) {
  PartTimes parts;
  parts.queue = r.prefill_started - r.arrived;
  parts.pool = r.pool;
  parts.exchange = r.prefill_exchange + r.decode_exchange;
  parts.prefill = r.first_token - r.prefill_started - r.pool - r.prefill_exchange;
  parts.handover = r.decode_joined - r.first_token;
  parts.decode = r.finished - r.decode_joined - r.decode_exchange;
  return parts;
}

}  // namespace supernode::serving
