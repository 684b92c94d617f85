// A trace that is written event by event is one JSON document.
#include "runtime/core/trace_events.hpp"

#include "tests/support/catch.hpp"

using namespace supernode;

TEST_CASE("a trace is valid JSON, with times in microseconds") {
  std::string text;
  std::size_t largest = 0;
  TraceEvents events([&](std::string_view piece) {
    text += piece;
    largest = std::max(largest, piece.size());
  });
  events.name_process(1, "a \"process\"");
  events.name_thread(1, 2, "a thread");
  events.place_thread(1, 2, 7);
  constexpr int kSpans = 20000;
  for (int i = 0; i < kSpans; ++i) events.span(1, 2, "span", 1000 * i + 1, 1000 * i + 2, {{"number", i}});
  events.begin_of(9, 1, "request", 5);
  events.end_of(9, 1, "request", 1500);
  events.finish();
  CHECK(largest < text.size() / 2);  // in pieces

  const Json trace = parse_json(text, "trace")["traceEvents"];
  REQUIRE(trace.size() == 3 + kSpans + 2);
  CHECK(trace[0]["args"]["name"] == "a \"process\"");
  CHECK(trace[1]["name"] == "thread_name");
  CHECK(trace[1]["tid"] == 2);
  CHECK(trace[2]["args"]["sort_index"] == 7);
  CHECK(trace[4]["ph"] == "X");
  CHECK(trace[4]["ts"] == 1.001);
  CHECK(trace[4]["dur"] == 0.001);
  CHECK(trace[4]["args"]["number"] == 1);
  CHECK(trace[3 + kSpans]["ph"] == "b");
  CHECK(trace[4 + kSpans]["ph"] == "e");
  CHECK(trace[4 + kSpans]["id"] == 9);
  CHECK(trace[4 + kSpans]["ts"] == 1.5);
}

TEST_CASE("a trace without events is a document, too") {
  std::string text;
  TraceEvents([&](std::string_view piece) { text += piece; }).finish();
  CHECK(parse_json(text, "trace")["traceEvents"].empty());
}
