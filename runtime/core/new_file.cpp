#include "runtime/core/new_file.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace supernode {
namespace fs = std::filesystem;
namespace {

EnvironmentError cannot_write(const std::string& path, int system_error) {
  return EnvironmentError(fmt::format("cannot write '{}': {}", path, std::strerror(system_error)));
}

UsageError already_there(const std::string& path) {
  return UsageError(
      fmt::format("cannot write '{}': it exists (results are never overwritten, unless by --overwrite)", path));
}

constexpr std::size_t kept_of_name = 200;  // of at most 255 bytes

/// The mode of the file that will be replaced; nothing when there is none.
std::optional<mode_t> check_target(const std::string& path, IfExists if_exists) {
  if (path.empty() || path.back() == '/')
    throw UsageError(fmt::format("cannot write '{}': it is no name of a file", path));
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) throw cannot_write(path, errno);
    return std::nullopt;
  }
  if (if_exists == IfExists::refuse) throw already_there(path);
  if (::stat(path.c_str(), &info) != 0) throw cannot_write(path, errno);
  // A device or a pipe would be lost by the renaming.
  if (!S_ISREG(info.st_mode)) throw UsageError(fmt::format("cannot write '{}': it is no regular file", path));
  return info.st_mode & 07777;
}

/// A name beside `target` that nobody has, and the file. Names of files are short enough with what is added.
FileDescriptor open_draft(const std::string& target, std::string& name) {
  const fs::path path(target);
  std::random_device random;
  for (;;) {
    name =
        (path.parent_path() / fmt::format("{}.{:08x}.part", path.filename().string().substr(0, kept_of_name), random()))
            .string();
    FileDescriptor file(::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (file || errno != EEXIST) return file;
  }
}

/// Renames unless `target` exists. False, with errno.
bool rename_to_new(const std::string& draft, const std::string& target) {
  if (::renameat2(AT_FDCWD, draft.c_str(), AT_FDCWD, target.c_str(), RENAME_NOREPLACE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) return false;
  // Not every file system knows that call (NFS does not). There the name is taken by an empty file of ours first.
  FileDescriptor claim(::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!claim) return false;
  if (claim.close() && ::rename(draft.c_str(), target.c_str()) == 0) return true;
  const int error = errno;
  ::unlink(target.c_str());
  errno = error;
  return false;
}

}  // namespace

void check_new_file(const std::string& path, IfExists if_exists) {
  check_target(path, if_exists);
  const std::string parent = fs::path(path).parent_path().string();
  if (::access(parent.empty() ? "." : parent.c_str(), W_OK | X_OK) != 0) throw cannot_write(path, errno);
}

bool is_draft_of(std::string_view name, std::string_view target) {
  constexpr std::string_view end = ".part";
  constexpr std::size_t digits = 8;
  target = target.substr(0, kept_of_name);
  if (name.size() != target.size() + 1 + digits + end.size()) return false;
  const std::string_view middle = name.substr(target.size() + 1, digits);
  return name.starts_with(target) && name[target.size()] == '.' && name.ends_with(end) &&
         middle.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

NewFile::NewFile(const std::string& path, IfExists if_exists) : path_(path), target_(path), if_exists_(if_exists) {
  const std::optional<mode_t> mode = check_target(path, if_exists);
  std::error_code ignored;
  if (mode && fs::is_symlink(path, ignored)) target_ = fs::canonical(path, ignored).string();
  file_ = open_draft(target_, draft_);
  if (!file_) throw failure(errno);
  if (mode) ::fchmod(file_.get(), *mode);  // who may read a file does not change with what is in it
}

NewFile::~NewFile() {
  if (!draft_.empty() && file_) ::unlink(draft_.c_str());
}

EnvironmentError NewFile::failure(int system_error) const { return cannot_write(path_, system_error); }

void NewFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(file_.get(), bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR) throw failure(errno);
    if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

void NewFile::commit() {
  // Some file systems report a full disk only here, or when the file is closed.
  const bool whole = ::fsync(file_.get()) == 0 || errno == EINVAL;
  const int error = errno;
  FileDescriptor closing = std::move(file_);
  const std::string draft = std::move(draft_);
  draft_.clear();
  const bool good = whole && closing.close();
  if (good &&
      (if_exists_ == IfExists::replace ? ::rename(draft.c_str(), target_.c_str()) == 0 : rename_to_new(draft, target_)))
    return;
  const int reason = whole ? errno : error;
  ::unlink(draft.c_str());
  if (good && reason == EEXIST) throw already_there(path_);
  throw failure(reason);
}

}  // namespace supernode
