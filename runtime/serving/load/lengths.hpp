#pragma once
// How long generated prompts and outputs are: a distribution, or the lengths of a file. Pure.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace supernode::serving {

enum class LengthOf { prompt, output };

/// The lengths of a CSV file, in its order; 0 counts as 1. Its columns are those of a header, of which prompts take
/// prompt_tokens, input_length, ContextTokens or "Request tokens" and outputs output_tokens, output_length,
/// GeneratedTokens or "Response tokens" (so Azure's and BurstGPT's traces are such files); without a header the first
/// column is the prompts' and the second, if there is one, the outputs'. A file of one column serves for either.
/// @throws UsageError with file and line for what is no length, and naming the columns when none fits
std::vector<std::int64_t> parse_lengths(std::string_view text, const std::string& source, LengthOf which);

class Lengths {
 public:
  /// "fixed:N", "uniform:A:B" (both included), "lognormal:MEDIAN:SIGMA" (SIGMA of the logarithm), or the path of a CSV
  /// file, each of whose rows is as likely. Reads the file. @param option names it in messages
  /// @throws UsageError naming option and text
  Lengths(const std::string& text, LengthOf which, const std::string& option);

  /// The length below which a share `u` of all lengths lies, u in [0, 1); of a file the length of that row. At least 1.
  std::int64_t at(double u) const;
  /// Lengths of any size may come, however rarely.
  bool unbounded() const { return kind_ == Kind::lognormal; }
  /// Both take their lengths from the rows of one file, so a row's prompt and output belong together.
  friend bool from_one_file(const Lengths& a, const Lengths& b) {
    return a.kind_ == Kind::file && b.kind_ == Kind::file && a.text_ == b.text_;
  }

 private:
  enum class Kind { fixed, uniform, lognormal, file };
  std::string text_;
  Kind kind_ = Kind::fixed;
  double first_ = 1, second_ = 0;
  std::vector<std::int64_t> rows_;
};

}  // namespace supernode::serving
