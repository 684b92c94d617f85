#include "runtime/core/options.hpp"

#include <limits>

#include "runtime/core/error.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using Catch::Matchers::Contains;

namespace {

struct Example {
  int tokens = 128;
  double alpha = 1.5;
  bool check = true;
  std::string mode = "fast";
  enum class Colour { red, green } colour = Colour::red;
  Bytes capacity{64 << 20};
  BytesRange blocks{4096, 1 << 20};
  std::vector<std::string> algorithms{"direct"};
  double rate = 0;
  std::vector<double> percentiles{99};
};

void describe(OptionTable& table, Example& e) {
  table.add("bench_x", "num_tokens", e.tokens, "tokens of each rank").range(0, 4096).short_flag('n');
  table.add("bench_x", "check", e.check, "compare results").short_flag('c');
  table.add("bench_x", "mode", e.mode, "how").choices({"fast", "slow"});
  table.add("bench_x", "colour", e.colour, "which", {"red", "green"});
  table.add("bench_x", "algorithms", e.algorithms, "which").choices({"direct", "alltoallv"});
  table.add("bench_x", "block_bytes", e.blocks, "sizes");
  table.add("bench_x", "rate", e.rate, "per second").range(0, 1e9).or_infinity();
  table.add("bench_x", "percentiles", e.percentiles, "which");
  table.add("pool", "alpha", e.alpha, "skew").range(0, 10);
  table.add("pool", "capacity", e.capacity, "bytes");
}

Example parse(const OptionSources& sources) {
  Example e;
  OptionTable table("bench_x");
  describe(table, e);
  table.parse(sources);
  return e;
}

}  // namespace

TEST_CASE("an option is a flag, a variable and a file entry") {
  CHECK(parse({{"--num-tokens", "7"}, {}, "", ""}).tokens == 7);
  CHECK(parse({{"-n", "7"}, {}, "", ""}).tokens == 7);
  CHECK(parse({{"--bench-x.num-tokens=7"}, {}, "", ""}).tokens == 7);
  CHECK(parse({{}, {{"SUPERNODE_BENCH_X__NUM_TOKENS", "8"}}, "", ""}).tokens == 8);
  CHECK(parse({{}, {}, "f.ini", "[bench_x]\nnum-tokens = 9 # nine\n"}).tokens == 9);
  CHECK(parse({{"-c", "0"}, {}, "", ""}).check == false);
  CHECK(parse({{"--check"}, {}, "", ""}).check == true);
  CHECK(parse({{"--pool.capacity", "1.5G"}, {}, "", ""}).capacity.value == 3ull << 29);
  CHECK(parse({{"--block-bytes", "8:64K"}, {}, "", ""}).blocks == BytesRange{8, 65536});
  CHECK(parse({{"--algorithms", "direct,alltoallv"}, {}, "", ""}).algorithms.size() == 2);
}

TEST_CASE("an enumeration is set by the names of its values") {
  CHECK(parse({{}, {}, "", ""}).colour == Example::Colour::red);
  CHECK(parse({{"--colour", "green"}, {}, "", ""}).colour == Example::Colour::green);
  CHECK_THROWS_WITH(parse({{"--colour", "blue"}, {}, "", ""}), Contains("'blue' is unknown; known: red green"));
  Example e;
  OptionTable table("bench_x");
  describe(table, e);
  e.colour = Example::Colour::green;
  CHECK(table.as_ini().find("colour = green") != std::string::npos);
}

TEST_CASE("infinity and fractions, where an option takes them") {
  CHECK(parse({{"--rate", "inf"}, {}, "", ""}).rate == std::numeric_limits<double>::infinity());
  CHECK(parse({{}, {}, "f.ini", "[bench_x]\nrate = inf\n"}).rate == std::numeric_limits<double>::infinity());
  CHECK(parse({{"--rate", "2.5"}, {}, "", ""}).rate == 2.5);
  for (const char* bad : {"nan", "-inf", "-1", "2e9", "infinite"})
    CHECK_THROWS_AS(parse({{std::string("--rate=") + bad}, {}, "", ""}), UsageError);
  CHECK_THROWS_WITH(parse({{"--pool.alpha", "inf"}, {}, "", ""}), Contains("not a finite number"));
  CHECK(parse({{"--percentiles", "50,99.9"}, {}, "", ""}).percentiles == std::vector<double>{50, 99.9});
  CHECK(parse({{"--percentiles", ""}, {}, "", ""}).percentiles.empty());
  CHECK_THROWS_WITH(parse({{"--percentiles", "50,x"}, {}, "", ""}), Contains("'x' is not a finite number"));
}

TEST_CASE("a flag wins over a variable, a variable over a file, a file over the default") {
  const std::string file = "[pool]\nalpha = 1\n";
  CHECK(parse({{}, {}, "f.ini", file}).alpha == 1);
  CHECK(parse({{}, {{"SUPERNODE_POOL__ALPHA", "2"}}, "f.ini", file}).alpha == 2);
  CHECK(parse({{"--pool.alpha", "3"}, {{"SUPERNODE_POOL__ALPHA", "2"}}, "f.ini", file}).alpha == 3);
}

TEST_CASE("every mistake is named with its place") {
  struct Row {
    OptionSources sources;
    std::string expected;
  };
  const auto row = GENERATE(values<Row>({
      {{{"--nonsense", "1"}, {}, "", ""}, "--nonsense"},
      {{{"stray"}, {}, "", ""}, "stray"},
      {{{"--num-tokens"}, {}, "", ""}, "--num-tokens"},
      {{{"--num-tokens", "many"}, {}, "", ""}, "--num-tokens: 'many' is not an integer"},
      {{{"--num-tokens", "-1"}, {}, "", ""}, "outside [0, 4096]"},
      {{{"--num-tokens", "1", "--num-tokens", "2"}, {}, "", ""}, "more than once"},
      {{{"--mode", "odd"}, {}, "", ""}, "'odd' is unknown; known: fast slow"},
      {{{"--algorithms", "direct,odd"}, {}, "", ""}, "'odd' is unknown; known: direct alltoallv"},
      {{{"--pool.capacity", "5Q"}, {}, "", ""}, "'5Q' is not a size"},
      {{{"--pool.alpha", "nan"}, {}, "", ""}, "not a finite number"},
      {{{"--block-bytes", "8K:4K"}, {}, "", ""}, "empty range"},
      {{{}, {{"SUPERNODE_POOL__ODD", "1"}}, "", ""}, "SUPERNODE_POOL__ODD"},
      {{{}, {{"SUPERNODE_POOL__ALPHA", "x"}}, "", ""}, "SUPERNODE_POOL__ALPHA"},
      {{{}, {}, "f.ini", "\n[pool]\nodd = 1\n"}, "f.ini:3: [pool] odd: unknown key"},
      {{{}, {}, "f.ini", "[pool]\nalpha = 99\n"}, "f.ini:2"},
      {{{}, {}, "f.ini", "[pool]\nalpha = 1\nalpha = 2\n"}, "f.ini:3: key 'alpha' was already given in line 2"},
      {{{}, {}, "f.ini", "[pool\n"}, "f.ini:1"},
      {{{}, {}, "f.ini", "\x01\x02garbage"}, "f.ini:1"},
  }));
  CHECK_THROWS_WITH(parse(row.sources), Contains(row.expected));
  CHECK_THROWS_AS(parse(row.sources), UsageError);
}

TEST_CASE("the effective configuration can be read back") {
  Example first;
  OptionTable table("bench_x");
  describe(table, first);
  table.parse({{"--num-tokens", "5", "--pool.alpha", "0.1", "--block-bytes", "8K:1M"}, {}, "", ""});
  const Example second = parse({{}, {}, "printed.ini", table.as_ini()});
  CHECK(second.tokens == 5);
  CHECK(second.alpha == 0.1);
  CHECK(second.blocks == BytesRange{8192, 1 << 20});
  CHECK(table.given("pool", "alpha"));
  CHECK_FALSE(table.given("pool", "capacity"));
}

TEST_CASE("help names flags, limits and defaults of the own section") {
  Example e;
  OptionTable table("bench_x");
  describe(table, e);
  CHECK_THAT(table.help(), Contains("--num-tokens, -n INTEGER") && Contains("[128]") && Contains("one of: fast slow"));
}

TEST_CASE("a module's options may be described by several commands") {
  Example first, second;
  OptionTable table("bench_x");
  describe(table, first);
  describe(table, second);
  table.parse({{"--pool.alpha", "3", "--num-tokens", "7"}, {}, "", ""});
  CHECK(first.alpha == 3);
  CHECK(second.alpha == 3);
  CHECK(second.tokens == 7);
  CHECK(table.help().find("--num-tokens") == table.help().rfind("--num-tokens"));
}

TEST_CASE("an argument without a flag is the value of the option that stands alone") {
  const auto parsed = [](std::vector<std::string> arguments) {
    std::string file, other;
    OptionTable table("replay");
    table.add("replay", "file", file, "what is read").stands_alone();
    table.add("serve", "file", other, "of another command").stands_alone();
    table.parse({std::move(arguments), {}, "", ""});
    CHECK(other.empty());
    return file;
  };
  CHECK(parsed({"a.h5"}) == "a.h5");
  CHECK(parsed({"--file", "a.h5"}) == "a.h5");
  CHECK(parsed({}) == "");
  CHECK_THROWS_WITH(parsed({"a.h5", "b.h5"}), Contains("--file: given more than once"));
  CHECK_THROWS_WITH(parsed({"--file", "a.h5", "b.h5"}), Contains("given more than once"));
  std::string file;
  OptionTable table("generate");
  table.add("replay", "file", file, "what is read").stands_alone();
  CHECK_THROWS_WITH(table.parse({{"a.h5"}, {}, "", ""}), Contains("unexpected argument 'a.h5'"));
}
