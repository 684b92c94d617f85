#include "runtime/serving/load/timestamp.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "runtime/core/text.hpp"

namespace supernode::serving {
namespace {

/// Takes fields of a fixed form off the front of a text; after the first that is not there nothing is.
class Fields {
 public:
  explicit Fields(std::string_view text) : rest_(text) {}

  /// A number of exactly `digits` digits, at most `most`.
  int number(std::size_t digits, int most) {
    const std::string_view field = rest_.substr(0, digits);
    const bool all_digits = field.size() == digits && field.find_first_not_of("0123456789") == std::string_view::npos;
    const int value = all_digits ? *parse_number<int>(field) : -1;
    good_ = good_ && all_digits && value <= most;
    rest_.remove_prefix(field.size());
    return value;
  }
  /// One of these characters; 0 when the next is another.
  char one_of(std::string_view characters) {
    if (rest_.empty() || characters.find(rest_.front()) == std::string_view::npos) return 0;
    const char found = rest_.front();
    rest_.remove_prefix(1);
    return found;
  }
  void expect(std::string_view characters) { good_ = good_ && one_of(characters) != 0; }
  /// Digits behind a point, as a fraction of one.
  double fraction() {
    const std::size_t digits = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
    double value = 0, place = 0.1;
    for (std::size_t i = 0; i < digits; ++i, place /= 10) value += (rest_[i] - '0') * place;
    good_ = good_ && digits > 0;
    rest_.remove_prefix(digits);
    return value;
  }
  bool good() const { return good_; }
  bool done() const { return good_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool good_ = true;
};

}  // namespace

std::optional<double> parse_timestamp(std::string_view text) {
  Fields fields(text);
  const int year = fields.number(4, 9999);
  fields.expect("-");
  const int month = fields.number(2, 12);
  fields.expect("-");
  const int day = fields.number(2, 31);
  fields.expect(" T");
  const int hour = fields.number(2, 23);
  fields.expect(":");
  const int minute = fields.number(2, 59);
  fields.expect(":");
  double second = fields.number(2, 60);
  if (fields.one_of(".")) second += fields.fraction();
  int offset_minutes = 0;
  if (const char sign = fields.one_of("Z+-"); sign == '+' || sign == '-') {
    const int hours = fields.number(2, 23);
    fields.expect(":");
    offset_minutes = (sign == '+' ? 1 : -1) * (hours * 60 + fields.number(2, 59));
  }
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  if (!fields.done() || !date.ok()) return std::nullopt;
  const auto days = std::chrono::sys_days(date).time_since_epoch().count();
  return days * 86400.0 + hour * 3600 + (minute - offset_minutes) * 60 + second;
}

}  // namespace supernode::serving
