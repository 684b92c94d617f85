#pragma once
// A file that stands under its name only when it is whole.

#include <string>
#include <string_view>

#include "runtime/core/error.hpp"
#include "runtime/core/file_descriptor.hpp"

namespace supernode {

/// What becomes of a regular file that has the name already.
enum class IfExists { refuse, replace };

/// Whether a file may be made at `path`, to be asked before long work. @throws UsageError when `path` exists and is to
/// be kept, is no regular file, or names a folder; EnvironmentError, with the system's reason, when its folder is
/// missing or may not be written to.
void check_new_file(const std::string& path, IfExists if_exists = IfExists::refuse);

/// Whether `name` is that of a draft of `target`; both without their folder. A crash may leave one.
bool is_draft_of(std::string_view name, std::string_view target);

/// Writes to a draft beside the target and gives it the target's name in commit(). Whoever looks for the target, also
/// after a crash, finds nothing (or what stood there before), or the whole. A draft that is not committed is removed.
/// Local, not thread-safe.
class NewFile {
 public:
  /// Opens the draft. A link is followed when what it names is replaced. @throws as check_new_file().
  explicit NewFile(const std::string& path, IfExists if_exists = IfExists::refuse);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  const std::string& path() const { return path_; }    ///< as the user named it
  const std::string& draft() const { return draft_; }  ///< the draft's name
  int descriptor() const { return file_.get(); }       ///< of the draft, open for reading and writing

  /// Appends. @throws EnvironmentError with the system's reason.
  void write(std::string_view bytes);
  /// Brings the draft to the disk and gives it its name. With IfExists::refuse it never takes the place of another file,
  /// also not of one that came meanwhile. @throws UsageError when there is one, EnvironmentError for all other reasons.
  void commit();

  /// "cannot write '<path>': <reason>".
  EnvironmentError failure(int system_error) const;

 private:
  std::string path_, target_, draft_;
  IfExists if_exists_;
  FileDescriptor file_;
};

}  // namespace supernode
