#include "moe/checkpoint/stand_in.hpp"

#include <algorithm>
#include <cctype>
#include <fstream>

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::moe {
namespace {
constexpr std::size_t head_bytes = 512;
}

std::string stand_in_of(std::string_view head) {
  head = head.substr(0, head_bytes);
  if (head.starts_with("\xef\xbb\xbf")) head.remove_prefix(3);
  std::string text(head.substr(std::min(head.find_first_not_of(" \t\r\n"), head.size())));
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  if (text.starts_with("version https://git-lfs"))
    return "is a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'";
  for (const char* begin : {"<!doctype", "<html", "<head", "<?xml", "<!--"})
    if (text.starts_with(begin)) return "is a web page, not the file itself: its download failed";
  if (text.starts_with("pk\x03\x04")) return "is a zip archive (PyTorch's format): convert it to safetensors";
  if (text.starts_with("gguf")) return "is a GGUF file: supported are safetensors and this program's HDF5";
  for (const char* begin : {"entry not found", "access to model", "repository not found", "invalid username",
                            "not found", "invalid credentials"})
    if (text.starts_with(begin))
      return fmt::format("holds a server's message ('{}'), not the file itself", head.substr(0, head.find('\n')));
  return {};
}

void refuse_stand_in(const std::string& path, std::string_view head) {
  if (const std::string what = stand_in_of(head); !what.empty()) throw UsageError(fmt::format("{}: {}", path, what));
}

std::string head_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string head(head_bytes, '\0');
  file.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return head;
}

}  // namespace supernode::moe
