#pragma once
// For the programs' main files only: Catch2's session and its listeners, by the names of either generation.

#define CATCH_CONFIG_RUNNER
#include <string>

#include "tests/support/catch.hpp"

#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#include <catch2/catch_test_case_info.hpp>
#include <catch2/reporters/catch_reporter_event_listener.hpp>
#include <catch2/reporters/catch_reporter_registrars.hpp>

namespace supernode::test {
using Listener = Catch::EventListenerBase;
inline const std::string& case_name(const Catch::TestCaseStats& stats) { return stats.testInfo->name; }
}  // namespace supernode::test
#else
namespace supernode::test {
using Listener = Catch::TestEventListenerBase;
inline const std::string& case_name(const Catch::TestCaseStats& stats) { return stats.testInfo.name; }
}  // namespace supernode::test
#endif
