#pragma once
// Move-only owners of MPI objects: one template, a traits struct for each kind.

#include <exception>
#include <utility>

#include <mpi.h>

namespace supernode {

/// Whether this process left MPI objects to themselves; it then leaves without MPI_Finalize where that does not bear it.
inline bool handles_abandoned = false;

/// Owns one MPI handle and releases it in its destructor. Null when default-constructed or moved from.
/// While an exception unwinds the stack nothing is released: that may wait for a peer that is gone or knows of no
/// error, and then nobody would ever read the message. The process is about to end.
template <class Traits>
class Handle {
 public:
  using type = typename Traits::type;

  Handle() noexcept = default;
  /// Takes ownership of `raw`.
  explicit Handle(type raw) noexcept : raw_(raw) {}
  Handle(Handle&& other) noexcept : raw_(std::exchange(other.raw_, Traits::null())) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (std::uncaught_exceptions() == 0) reset();
    if (raw_ != Traits::null()) handles_abandoned = true;
  }

  type get() const noexcept { return raw_; }
  explicit operator bool() const noexcept { return raw_ != Traits::null(); }
  /// For the MPI call that fills the handle; must be empty.
  type* out() noexcept { return &raw_; }
  void reset() noexcept {
    if (raw_ != Traits::null()) Traits::release(raw_);
    raw_ = Traits::null();
  }

 private:
  type raw_ = Traits::null();
};

struct CommTraits {
  using type = MPI_Comm;
  static type null() noexcept { return MPI_COMM_NULL; }
  static void release(type& comm) noexcept { MPI_Comm_free(&comm); }
};

struct WindowTraits {
  using type = MPI_Win;
  static type null() noexcept { return MPI_WIN_NULL; }
  /// Collective over the window's communicator.
  static void release(type& window) noexcept { MPI_Win_free(&window); }
};

struct RequestTraits {
  using type = MPI_Request;
  static type null() noexcept { return MPI_REQUEST_NULL; }
  /// Waits: the buffer belongs to MPI until then, so MPI_Request_free would be wrong.
  static void release(type& request) noexcept { MPI_Wait(&request, MPI_STATUS_IGNORE); }
};

struct DatatypeTraits {
  using type = MPI_Datatype;
  static type null() noexcept { return MPI_DATATYPE_NULL; }
  static void release(type& datatype) noexcept { MPI_Type_free(&datatype); }
};

struct InfoTraits {
  using type = MPI_Info;
  static type null() noexcept { return MPI_INFO_NULL; }
  static void release(type& info) noexcept { MPI_Info_free(&info); }
};

using OwnedComm = Handle<CommTraits>;
using OwnedWindow = Handle<WindowTraits>;
using OwnedRequest = Handle<RequestTraits>;
using OwnedDatatype = Handle<DatatypeTraits>;
using OwnedInfo = Handle<InfoTraits>;

}  // namespace supernode
