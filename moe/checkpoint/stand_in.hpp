#pragma once
// Files that stand in the place of others: what a clone or a download leaves when it did not bring the file itself.

#include <string>
#include <string_view>

namespace supernode::moe {

/// "is a Git LFS pointer, ...", "is a web page, ..." or the like; empty for anything else. @param head the file's begin
std::string stand_in_of(std::string_view head);

/// @throws UsageError "<path>: <what it is>" when it is one.
void refuse_stand_in(const std::string& path, std::string_view head);

/// The first bytes of a file on disk, enough for the above; empty when it cannot be read.
std::string head_of_file(const std::string& path);

}  // namespace supernode::moe
