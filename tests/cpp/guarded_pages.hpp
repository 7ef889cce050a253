// Memory whose pages can be closed, so that the processor itself reports who touches it. POSIX only.
#pragma once

#if defined(__unix__) || defined(__APPLE__)
#define RMSPROP_TESTS_HAVE_PAGES 1

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

// Whole pages between two pages that nobody may touch: a read or write there ends the test with a segmentation fault.
class GuardedPages {
 public:
  explicit GuardedPages(std::size_t least_bytes)
      : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))), size_((least_bytes + page_ - 1) / page_ * page_) {
    void* memory = mmap(nullptr, size_ + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    begin_ = static_cast<std::byte*>(memory) + page_;
    open();
  }
  ~GuardedPages() { munmap(begin_ - page_, size_ + 2 * page_); }
  GuardedPages(const GuardedPages&) = delete;
  GuardedPages& operator=(const GuardedPages&) = delete;

  std::byte* begin() const { return begin_; }
  std::byte* end() const { return begin_ + size_; }
  std::size_t page_size() const { return page_; }
  std::size_t page_count() const { return size_ / page_; }

  void open() const { mprotect(begin_, size_, PROT_READ | PROT_WRITE); }
  void close() const { mprotect(begin_, size_, PROT_NONE); }
  void open_page(std::size_t i) const { mprotect(begin_ + i * page_, page_, PROT_READ | PROT_WRITE); }

 private:
  std::size_t page_;
  std::size_t size_;
  std::byte* begin_;
};

#endif
