#include "runtime/core/options.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <optional>

#include <boost/program_options.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/core/error.hpp"
#include "runtime/core/ini_file.hpp"
#include "runtime/core/sizes.hpp"
#include "runtime/core/text.hpp"

extern char** environ;

namespace supernode {
namespace po = boost::program_options;
namespace {

std::string with_hyphens(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string in_capitals(std::string name) {
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

/// @param what "an integer": for the message
template <class T>
T number_in(const std::string& text, const char* what) {
  const std::optional<T> value = parse_number<T>(text);
  if (!value) throw UsageError(fmt::format("'{}' is not {}", text, what));
  return *value;
}

double real_in(const std::string& text) { return number_in<double>(text, "a finite number"); }

bool parse_bool(const std::string& text) {
  for (const char* yes : {"true", "1", "yes", "on"})
    if (text == yes) return true;
  for (const char* no : {"false", "0", "no", "off"})
    if (text == no) return false;
  throw UsageError(fmt::format("'{}' is neither true nor false", text));
}

/// An empty text is an empty list, and a comma at the end starts no item.
std::vector<std::string> split_list(std::string_view text) {
  if (text.ends_with(',')) text.remove_suffix(1);
  if (text.empty()) return {};
  const std::vector<std::string_view> items = split(text, ',');
  return {items.begin(), items.end()};
}

std::string exact_size(std::uint64_t bytes) {
  static constexpr const char* units[] = {"", "K", "M", "G", "T"};
  std::size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit + 1 < std::size(units)) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{}{}", bytes, units[unit]);
}

}  // namespace

Option& Option::stands_alone() {
  stands_alone_ = true;
  return *this;
}

Option& Option::short_flag(char letter) {
  short_ = letter;
  return *this;
}

Option& Option::range(double low, double high) {
  low_ = low;
  high_ = high;
  return *this;
}

Option& Option::or_infinity() {
  expect(type_ == "number", "or_infinity(): not a real number: " + section_ + "." + key_);
  or_infinity_ = true;
  return *this;
}

Option& Option::choices(std::vector<std::string> values) {
  choices_ = std::move(values);
  return *this;
}

void Option::assign(const std::string& text, const std::string& origin) {
  const auto bad = [&](std::string_view why) { return UsageError(fmt::format("{}: {}", origin, why)); };
  if (!choices_.empty()) {
    const auto items = type_ == "list" ? split_list(text) : std::vector<std::string>{text};
    for (const std::string& item : items)
      if (std::find(choices_.begin(), choices_.end(), item) == choices_.end())
        throw bad(fmt::format("'{}' is unknown; known: {}", item, fmt::join(choices_, " ")));
  }
  try {
    for (const auto& parse : targets_) parse(text);
  } catch (const UsageError& error) {
    throw bad(error.what());
  }
  const bool infinite = or_infinity_ && std::isinf(number_());
  if (number_ && !infinite && !(number_() >= low_ && number_() <= high_)) {
    if (std::isinf(high_)) throw bad(fmt::format("{} is below the minimum of {}", text, low_));
    throw bad(fmt::format("{} is outside [{}, {}]", text, low_, high_));
  }
}

Option& OptionTable::append(const std::string& section, const std::string& key, const std::string& help,
                            std::string type) {
  if (Option* known = find(section, key)) {
    expect(known->type_ == type, "option described with two types: " + section + "." + key);
    return *known;
  }
  options_.push_back(std::make_unique<Option>());
  Option& option = *options_.back();
  option.section_ = section;
  option.key_ = key;
  option.help_ = help;
  option.type_ = std::move(type);
  return option;
}

Option* OptionTable::find(std::string_view section, std::string_view key) {
  for (const auto& option : options_)
    if (option->section_ == section && option->key_ == key) return option.get();
  return nullptr;
}

Option& OptionTable::add(const std::string& section, const std::string& key, bool& target, const std::string& help) {
  Option& option = append(section, key, help, "bool");
  option.is_flag_ = true;
  option.targets_.push_back([&target](const std::string& text) { target = parse_bool(text); });
  option.show_ = [&target] { return std::string(target ? "true" : "false"); };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, int& target, const std::string& help) {
  Option& option = append(section, key, help, "integer");
  option.targets_.push_back([&target](const std::string& text) { target = number_in<int>(text, "an integer"); });
  option.show_ = [&target] { return std::to_string(target); };
  option.number_ = [&target] { return static_cast<double>(target); };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, std::int64_t& target,
                         const std::string& help) {
  Option& option = append(section, key, help, "integer");
  option.targets_.push_back(
      [&target](const std::string& text) { target = number_in<std::int64_t>(text, "an integer"); });
  option.show_ = [&target] { return std::to_string(target); };
  option.number_ = [&target] { return static_cast<double>(target); };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, std::uint64_t& target,
                         const std::string& help) {
  Option& option = append(section, key, help, "integer");
  option.targets_.push_back(
      [&target](const std::string& text) { target = number_in<std::uint64_t>(text, "a non-negative integer"); });
  option.show_ = [&target] { return std::to_string(target); };
  option.number_ = [&target] { return static_cast<double>(target); };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, double& target, const std::string& help) {
  Option& option = append(section, key, help, "number");
  option.targets_.push_back([&target, may_be_infinite = &option](const std::string& text) {
    // Whether this option may be infinite is said after it was added, so it is asked for when a value comes.
    target = may_be_infinite->or_infinity_ && text == "inf" ? std::numeric_limits<double>::infinity() : real_in(text);
  });
  option.show_ = [&target] { return fmt::format("{}", target); };
  option.number_ = [&target] { return target; };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, std::string& target,
                         const std::string& help) {
  Option& option = append(section, key, help, "text");
  option.targets_.push_back([&target](const std::string& text) { target = text; });
  option.show_ = [&target] { return target; };
  return option;
}

Option& OptionTable::add_choice(const std::string& section, const std::string& key, const std::string& help,
                                const std::vector<std::string>& names, std::function<void(std::size_t)> set,
                                std::function<std::size_t()> get) {
  Option& option = append(section, key, help, "text");
  // What is none of the choices has been refused before.
  option.targets_.push_back([names, set = std::move(set)](const std::string& text) {
    set(static_cast<std::size_t>(std::find(names.begin(), names.end(), text) - names.begin()));
  });
  option.show_ = [names, get = std::move(get)] { return names.at(get()); };
  return option.choices(names);
}

Option& OptionTable::add(const std::string& section, const std::string& key, Bytes& target, const std::string& help) {
  Option& option = append(section, key, help, "size");
  option.targets_.push_back([&target](const std::string& text) { target.value = parse_size(text); });
  option.show_ = [&target] { return exact_size(target.value); };
  option.number_ = [&target] { return static_cast<double>(target.value); };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, BytesRange& target,
                         const std::string& help) {
  Option& option = append(section, key, help, "size:size");
  option.targets_.push_back([&target](const std::string& text) {
    const auto colon = text.find(':');
    target.min = parse_size(text.substr(0, colon));
    target.max = colon == std::string::npos ? target.min : parse_size(text.substr(colon + 1));
    if (target.min > target.max) throw UsageError(fmt::format("'{}' is an empty range", text));
  });
  option.show_ = [&target] {
    return target.min == target.max ? exact_size(target.min) : exact_size(target.min) + ":" + exact_size(target.max);
  };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, std::vector<std::string>& target,
                         const std::string& help) {
  Option& option = append(section, key, help, "list");
  option.targets_.push_back([&target](const std::string& text) { target = split_list(text); });
  option.show_ = [&target] { return fmt::format("{}", fmt::join(target, ",")); };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, std::vector<int>& target,
                         const std::string& help) {
  Option& option = append(section, key, help, "list");
  option.targets_.push_back([&target](const std::string& text) {
    std::vector<int> values;
    for (const std::string& item : split_list(text)) values.push_back(number_in<int>(item, "an integer"));
    target = std::move(values);
  });
  option.show_ = [&target] { return fmt::format("{}", fmt::join(target, ",")); };
  return option;
}

Option& OptionTable::add(const std::string& section, const std::string& key, std::vector<double>& target,
                         const std::string& help) {
  Option& option = append(section, key, help, "list");
  option.targets_.push_back([&target](const std::string& text) {
    std::vector<double> values;
    for (const std::string& item : split_list(text)) values.push_back(real_in(item));
    target = std::move(values);
  });
  option.show_ = [&target] { return fmt::format("{}", fmt::join(target, ",")); };
  return option;
}

std::string OptionTable::own_flag(const Option& option) { return with_hyphens(option.key_); }

std::string OptionTable::long_flag(const Option& option) {
  return with_hyphens(option.section_) + "." + with_hyphens(option.key_);
}

void OptionTable::parse(const OptionSources& sources) {
  // Weakest first: each later source overwrites.
  parse_file(sources);
  parse_environment(sources);
  parse_arguments(sources);
}

void OptionTable::parse_file(const OptionSources& sources) {
  if (sources.file_name.empty()) return;
  for (const IniEntry& entry : parse_ini(sources.file_text, sources.file_name)) {
    const std::string origin = fmt::format("{}:{}: [{}] {}", sources.file_name, entry.line, entry.section, entry.key);
    Option* option = find(entry.section, entry.key);
    if (!option) throw UsageError(fmt::format("{}: unknown key", origin));
    option->assign(entry.value, origin);
    given_[{option->section_, option->key_}] = origin;
  }
}

void OptionTable::parse_environment(const OptionSources& sources) {
  for (const auto& [name, value] : sources.environment) {
    Option* found = nullptr;
    for (const auto& option : options_)
      if (name == "SUPERNODE_" + in_capitals(option->section_) + "__" + in_capitals(option->key_)) found = option.get();
    if (!found) throw UsageError(fmt::format("environment variable {}: no such option", name));
    found->assign(value, "environment variable " + name);
    given_[{found->section_, found->key_}] = name;
  }
}

void OptionTable::parse_arguments(const OptionSources& sources) {
  po::options_description known;
  std::map<std::string, Option*> by_flag;
  const auto declare = [&](Option& option, const std::string& name) {
    auto* value = po::value<std::string>();
    if (option.is_flag_) value->implicit_value("true");
    const bool has_short = option.short_ && name.find('.') == std::string::npos;
    known.add_options()((has_short ? fmt::format("{},{}", name, option.short_) : name).c_str(), value, "");
    by_flag[name] = &option;
  };
  Option* alone_option = nullptr;
  for (const auto& option : options_) {
    if (option->stands_alone_ && option->section_ == own_section_) alone_option = option.get();
    declare(*option, long_flag(*option));
    if (is_own(*option)) declare(*option, own_flag(*option));
  }
  // What stands alone is gathered under a name that no flag has: most commands take nothing of that kind.
  const std::string alone = "<argument>";
  known.add_options()(alone.c_str(), po::value<std::string>(), "");
  try {
    const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    const auto positional = po::positional_options_description().add(alone.c_str(), -1);
    const auto parsed =
        po::command_line_parser(sources.arguments).options(known).positional(positional).style(style).run();
    for (const auto& item : parsed.options) {
      Option* option = item.string_key == alone ? alone_option : by_flag.at(item.string_key);
      if (!option)
        throw UsageError(fmt::format("unexpected argument '{}' (--help lists the options)", item.value.front()));
      const std::string origin = "--" + (item.string_key == alone ? own_flag(*option) : item.string_key);
      const auto key = std::pair(option->section_, option->key_);
      if (given_.contains(key) && given_[key].starts_with("--"))
        throw UsageError(fmt::format("{}: given more than once", origin));
      // Boost leaves the value of a bare switch empty here.
      option->assign(item.value.empty() ? "true" : item.value.front(), origin);
      given_[key] = origin;
    }
  } catch (const po::unknown_option& error) {
    throw UsageError(fmt::format("unknown option '{}' (--help lists them)", error.get_option_name()));
  } catch (const po::error& error) {
    throw UsageError(error.what());
  }
}

bool OptionTable::given(const std::string& section, const std::string& key) const {
  return given_.contains({section, key});
}

std::vector<const Option*> OptionTable::own_options() const {
  std::vector<const Option*> own;
  for (const auto& option : options_)
    if (is_own(*option)) own.push_back(option.get());
  return own;
}

std::string OptionTable::help() const {
  std::string text;
  const auto list = [&](const std::string& section, std::string_view title) {
    bool any = false;
    for (const auto& option : options_) {
      if (option->section_ != section) continue;
      if (!any) text += fmt::format("\n{}\n", title);
      any = true;
      std::string flag = option->stands_alone_
                             ? fmt::format("  {}, or --{}", in_capitals(own_flag(*option)), own_flag(*option))
                             : fmt::format("  --{}", own_flag(*option));
      if (option->short_) flag += fmt::format(", -{}", option->short_);
      if (!option->is_flag_) flag += fmt::format(" {}", in_capitals(option->type_));
      text += fmt::format("{:<34} {}", flag, option->help_);
      if (!option->choices_.empty()) text += fmt::format("; one of: {}", fmt::join(option->choices_, " "));
      if (const std::string value = option->show_(); !value.empty()) text += fmt::format(" [{}]", value);
      text += '\n';
    }
  };
  list(own_section_, "Options [default]:");
  list("run", "Options of every command:");
  text +=
      "\nAny option of the configuration file is also a flag, --section.key VALUE; `supernode config` prints them "
      "all.\n";
  return text;
}

std::string OptionTable::as_ini() const {
  std::string text, section;
  std::vector<std::string> sections;
  for (const auto& option : options_)
    if (std::find(sections.begin(), sections.end(), option->section_) == sections.end())
      sections.push_back(option->section_);
  for (const std::string& name : sections) {
    text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", name);
    for (const auto& option : options_)
      if (option->section_ == name)
        text += fmt::format("# {}\n{} = {}\n", option->help_, option->key_, option->show_());
  }
  return text;
}

std::vector<std::pair<std::string, std::string>> option_environment() {
  std::vector<std::pair<std::string, std::string>> found;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text(*entry);
    const auto equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view name = text.substr(0, equals);
    if (name.starts_with("SUPERNODE_") && name.find("__") != std::string_view::npos)
      found.emplace_back(name, text.substr(equals + 1));
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string find_config_argument(const std::vector<std::string>& arguments) {
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    for (const char* flag : {"--config", "--run.config"}) {
      if (argument == flag && i + 1 < arguments.size()) return arguments[i + 1];
      if (argument.starts_with(std::string(flag) + "=")) return argument.substr(std::string(flag).size() + 1);
    }
  }
  const char* variable = std::getenv("SUPERNODE_RUN__CONFIG");
  return variable ? variable : "";
}

}  // namespace supernode
