#include "runtime/serving/load/request_record.hpp"

namespace supernode::serving {

std::string_view to_string(EndReason reason) {
  switch (reason) {
    case EndReason::length:
      return "length";
    case EndReason::stop:
      return "stop";
    case EndReason::cancelled:
      return "cancelled";
    case EndReason::refused:
      return "refused";
    case EndReason::failed:
      return "failed";
  }
  return "";
}

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
