#pragma once
// A log of records in segment files: append, find, read, forget the oldest, clean. One thread; no MPI.

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "memory_pool/files/record.hpp"
#include "memory_pool/files/record_file.hpp"
#include "memory_pool/status.hpp"

namespace supernode::pool::internal {

/// A key of a tenant.
struct Name {
  Key key;
  NamespaceId name_space = 0;
  friend bool operator==(const Name&, const Name&) = default;
};
struct NameHash {
  std::size_t operator()(const Name& name) const { return std::hash<Key>()(name.key) + name.name_space; }
};

/// Segments are filled one after the other and cleaned in the same order: the oldest one's live records are appended
/// again, then it is deleted. So an older version of a key never outlives a newer one, nor the record of its removal.
class RecordLog {
 public:
  /// Reads all segments in `directory`, which is created, and starts a new one at the first append.
  /// @param limit bytes of all files together, at least four segments
  /// @param direct_bytes payloads from this size on are written and read past the page cache; 0: none
  /// @throws EnvironmentError when the directory cannot be made, read or locked, naming it and the system's reason;
  /// also when another process uses it.
  RecordLog(const std::string& directory, std::uint64_t limit, std::uint64_t segment_bytes,
            std::uint64_t direct_bytes = 0);
  RecordLog(const RecordLog&) = delete;
  RecordLog& operator=(const RecordLog&) = delete;

  /// A payload that is there already, byte for byte, is not written again.
  /// After this the record outlives the process; after sync() the machine's power, too. False, and counted, when it
  /// could not be written (a full disk) or can never fit.
  bool append(const Name& name, std::span<const std::byte> payload, std::uint64_t checksum);
  /// Writes that `name` is gone, whether it is there or not. False when it could not be written.
  bool remove(const Name& name);
  /// The same for every block whose key `gone` names.
  void remove_if(const std::function<bool(const Key&)>& gone);
  /// The same for all records of a namespace. What was promised to it is taken back.
  bool remove_namespace(NamespaceId name_space);
  /// Keeps `bytes` of records for a namespace: as long as it has no more, they are not forgotten for others. All
  /// promises together should stay within keep_bytes().
  void promise(NamespaceId name_space, std::uint64_t bytes) { promised_[name_space] = bytes; }
  /// Bytes of live records that stay when the limit is reached; the rest is what cleaning works with.
  std::uint64_t keep_bytes() const;
  /// False when the system reports an error.
  bool sync();

  bool contains(const Name& name) const { return index_.contains(name); }
  /// Any block of that namespace.
  bool holds(NamespaceId name_space) const {
    const auto tenant = tenants_.find(name_space);
    return tenant != tenants_.end() && !tenant->second.order.empty();
  }
  /// The payload, verified. Empty when it is not there, or no longer intact: then it is forgotten and counted.
  struct Payload {
    std::vector<std::byte> bytes;
    std::uint64_t checksum = 0;
  };
  std::optional<Payload> read(const Name& name);

  const LogStats& stats() const { return stats_; }

 private:
  struct Entry {
    Name name;
    std::uint64_t segment, offset, length, sequence, checksum;
    Placement placement;
    std::uint64_t used;  ///< when, on a clock that counts uses
  };
  using Order = std::list<Entry>;  ///< least recently used first
  /// The blocks of a namespace.
  struct Tenant {
    Order order;
    std::uint64_t room_bytes = 0;  ///< the most that these records take, wherever cleaning puts them
  };
  struct Segment {
    std::uint64_t bytes = 0, salt = 0;
    bool has_aligned = false;  ///< a record with Placement::aligned
    RecordFile file;
  };

  void recover(std::uint64_t number);
  void take(const RecordHeader& header, std::uint64_t segment, std::uint64_t offset);
  Direct direct() const { return direct_bytes_ > 0 ? Direct::if_possible : Direct::no; }
  bool open_segment();
  void sync_filled();
  Placement placement_of(std::uint64_t length) const;
  bool write(RecordHeader header, std::span<const std::byte> payload, std::uint64_t& offset);
  bool write_filler(Segment& segment, std::uint64_t gap);
  bool write_packed(Segment& segment, const RecordHeader& header, std::span<const std::byte> payload,
                    std::uint64_t offset);
  bool write_aligned(Segment& segment, const RecordHeader& header, std::span<const std::byte> payload,
                     std::uint64_t offset);
  bool read_payload(Segment& segment, Placement placement, std::uint64_t offset, std::span<std::byte> to);
  void note_direct(const Segment& segment, bool good);
  void give_up_direct();
  bool append(RecordHeader header, std::span<const std::byte> payload);
  bool append_again(const RecordHeader& header, std::span<const std::byte> payload);
  bool append_or_drop(const RecordHeader& header, std::span<const std::byte> payload);
  void mark_aligned(Segment& segment);
  std::uint64_t cleaning_bytes() const;
  void make_room(std::uint64_t bytes);
  bool clean_oldest();
  void insert(const RecordHeader& header, std::uint64_t segment, std::uint64_t offset);
  void use(Order::iterator entry);
  void drop(Order::iterator entry);
  bool forget_oldest();
  std::optional<Payload> load(const Name& name);

  std::string directory_;
  std::uint64_t limit_, segment_bytes_;
  std::uint64_t direct_bytes_;  ///< 0 also once the file system has refused
  DirectBuffer buffer_;
  FileDescriptor lock_;
  std::map<std::uint64_t, Segment> segments_;  ///< by number; the last one is filled if `filling_`
  bool filling_ = false;
  bool sync_failed_ = false;            ///< of a segment that was filled since the last sync()
  std::uint64_t aligned_segments_ = 0;  ///< those with aligned records
  std::uint64_t last_segment_ = 0, last_sequence_ = 0;
  std::map<NamespaceId, Tenant> tenants_;  ///< tenants stay where they are once they are in
  std::map<NamespaceId, std::uint64_t> promised_;
  std::uint64_t room_bytes_ = 0;  ///< of all tenants
  std::uint64_t clock_ = 0;
  std::unordered_map<Name, Order::iterator, NameHash> index_;
  // Sequences of removals; only during recovery.
  std::unordered_map<Name, std::uint64_t, NameHash> removed_;
  std::map<NamespaceId, std::uint64_t> removed_namespaces_;
  LogStats stats_;
};

}  // namespace supernode::pool::internal
