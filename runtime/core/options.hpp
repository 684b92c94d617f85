#pragma once
// Options: each exists once, as a struct member with its default, and one line that describes it.
// Precedence: command line > environment > configuration file > default. An unknown name is an error that names it.
//
//   struct PoolConfig { Bytes capacity{64 << 20}; double evict_above = 0.9; };
//   void describe(OptionTable& o, PoolConfig& c) {
//     o.add("pool", "capacity", c.capacity, "DRAM a cache rank lends to the pool");
//     o.add("pool", "evict_above", c.evict_above, "start evicting above this fill").range(0.05, 1);
//   }
//
// gives the flag --pool.evict-above, the variable SUPERNODE_POOL__EVICT_ABOVE and the file entry evict_above in [pool].
// Options of the running command's own section, and of [run], are also flags without the section: --evict-above.

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace supernode {

/// A byte count; options of this type read "64K", "1.5G".
struct Bytes {
  std::uint64_t value = 0;
  friend bool operator==(Bytes, Bytes) = default;
};

/// A range of byte counts, "4K:1M"; one value means both ends.
struct BytesRange {
  std::uint64_t min = 0, max = 0;
  friend bool operator==(BytesRange, BytesRange) = default;
};

/// One row of the table; returned by add() so that its limits can be chained.
class Option {
 public:
  Option& short_flag(char letter);
  /// An argument without a flag is its value, when it is of the running command's section: one option of a section.
  Option& stands_alone();
  /// Numbers only; both ends included.
  Option& range(double low, double high);
  /// Real numbers only: "inf" is a value too, beyond the range.
  Option& or_infinity();
  /// Only these values (each, for lists). Shown by --help and in the error.
  Option& choices(std::vector<std::string> values);

  const std::string& section() const { return section_; }
  const std::string& key() const { return key_; }
  const std::string& help() const { return help_; }
  std::string value() const { return show_(); }  ///< the current value as it would stand in a file

 private:
  friend class OptionTable;
  void assign(const std::string& text, const std::string& origin);

  std::string section_, key_, help_, type_;
  char short_ = 0;
  bool is_flag_ = false, stands_alone_ = false;
  std::vector<std::string> choices_;
  double low_ = -std::numeric_limits<double>::infinity();
  double high_ = std::numeric_limits<double>::infinity();
  bool or_infinity_ = false;
  std::vector<std::function<void(const std::string&)>> targets_;  ///< one a target; throws UsageError without origin
  std::function<std::string()> show_;
  std::function<double()> number_;  ///< null unless numeric
};

/// Where values come from, gathered on one rank so that all ranks parse the same text.
struct OptionSources {
  std::vector<std::string> arguments;                            ///< after the command's name
  std::vector<std::pair<std::string, std::string>> environment;  ///< SUPERNODE_X__Y variables
  std::string file_name, file_text;                              ///< empty name: no file
};

/// The variables of this process named SUPERNODE_<SECTION>__<KEY>.
std::vector<std::pair<std::string, std::string>> option_environment();

/// Every option of the program, with the section of the running command.
class OptionTable {
 public:
  /// @param own_section section whose options are flags without prefix; "run" always is.
  explicit OptionTable(std::string own_section) : own_section_(std::move(own_section)) {}

  /// `target` holds the default now and the effective value after parse(); it must outlive the table. Commands that
  /// share a module's options describe them each with their own struct: every target of an option gets its value.
  Option& add(const std::string& section, const std::string& key, bool& target, const std::string& help);
  Option& add(const std::string& section, const std::string& key, int& target, const std::string& help);
  Option& add(const std::string& section, const std::string& key, std::int64_t& target, const std::string& help);
  Option& add(const std::string& section, const std::string& key, std::uint64_t& target, const std::string& help);
  Option& add(const std::string& section, const std::string& key, double& target, const std::string& help);
  Option& add(const std::string& section, const std::string& key, std::string& target, const std::string& help);
  Option& add(const std::string& section, const std::string& key, Bytes& target, const std::string& help);
  Option& add(const std::string& section, const std::string& key, BytesRange& target, const std::string& help);
  /// Comma-separated lists; an empty text is an empty list.
  Option& add(const std::string& section, const std::string& key, std::vector<std::string>& target,
              const std::string& help);
  Option& add(const std::string& section, const std::string& key, std::vector<int>& target, const std::string& help);
  Option& add(const std::string& section, const std::string& key, std::vector<double>& target, const std::string& help);
  /// An enumeration. `names` are those of its values 0, 1, .. in that order, and the choices.
  template <class Enum>
  requires std::is_enum_v<Enum> Option& add(const std::string& section, const std::string& key, Enum& target,
                                            const std::string& help, const std::vector<std::string>& names) {
    return add_choice(
        section, key, help, names, [&target](std::size_t value) { target = static_cast<Enum>(value); },
        [&target] { return static_cast<std::size_t>(target); });
  }

  /// Sets the targets from all sources in order of precedence. Does not communicate.
  /// @throws UsageError naming the option, its origin (flag, variable, file:line), the value and what is allowed.
  void parse(const OptionSources& sources);

  /// True when a file, a variable or a flag gave this option (parse() has run).
  bool given(const std::string& section, const std::string& key) const;

  /// The options of the own section and of [run], in the order they were added.
  std::vector<const Option*> own_options() const;
  /// Options of the own section and [run] in full, the other sections by name.
  std::string help() const;
  /// All options with effective values as a configuration file.
  std::string as_ini() const;

 private:
  Option& append(const std::string& section, const std::string& key, const std::string& help, std::string type);
  Option& add_choice(const std::string& section, const std::string& key, const std::string& help,
                     const std::vector<std::string>& names, std::function<void(std::size_t)> set,
                     std::function<std::size_t()> get);
  Option* find(std::string_view section, std::string_view key);
  bool is_own(const Option& option) const { return option.section_ == own_section_ || option.section_ == "run"; }
  /// Names of its flags: "max-tokens" for the command's own options, "generate.max-tokens" for any.
  static std::string own_flag(const Option& option);
  static std::string long_flag(const Option& option);
  void parse_file(const OptionSources& sources);
  void parse_environment(const OptionSources& sources);
  void parse_arguments(const OptionSources& sources);

  std::string own_section_;
  std::vector<std::unique_ptr<Option>> options_;
  std::map<std::pair<std::string, std::string>, std::string> given_;  ///< (section, key) -> origin
};

/// The value of `--config` in `arguments`, or the variable SUPERNODE_RUN__CONFIG, or "".
std::string find_config_argument(const std::vector<std::string>& arguments);

}  // namespace supernode
