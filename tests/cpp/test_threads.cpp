// Which thread does what if all are always used: the processor reports the first thread that touches each page. POSIX
// only.

#include "guarded_pages.hpp"

#if defined(RMSPROP_TESTS_HAVE_PAGES)

#include <doctest/doctest.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "cases.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

// The pages of a parameter, closed while a step runs. A thread that touches one is noted down, and the page opened.
class WatchedParameter {
 public:
  explicit WatchedParameter(std::int64_t size)
      : pages_(static_cast<std::size_t>(size) * sizeof(float)),
        owners_(new std::atomic<pthread_t>[pages_.page_count()]),
        size_(size),
        grad_(static_cast<std::size_t>(size), 1.0f),
        square_avg_(static_cast<std::size_t>(size), 1.0f) {
    std::fill_n(reinterpret_cast<float*>(pages_.begin()), size, 1.0f);
  }

  // Steps, and returns the thread that was the first to touch each page.
  std::vector<pthread_t> owners_in_step(int threads) {
    for (std::size_t i = 0; i < pages_.page_count(); ++i) owners_[i] = pthread_t{};
    const rmsprop::Update update = rmsprop::make_update(rmsprop::RMSprop{}, 1);
    rmsprop::Tensor tensor;
    tensor.data = {pages_.begin(), reinterpret_cast<std::byte*>(grad_.data()),
                   reinterpret_cast<std::byte*>(square_avg_.data())};
    tensor.update = &update;
    tensor.size = size_;

    const rmsprop::ThreadUse before = rmsprop::thread_use();
    rmsprop::set_thread_use(rmsprop::ThreadUse::fixed);
    watched_ = this;
    struct sigaction action = {}, before_segv = {}, before_bus = {};
    action.sa_sigaction = note_down;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &before_segv);
    sigaction(SIGBUS, &action, &before_bus);  // what macOS sends for a closed page
    pages_.close();
    rmsprop::step({&tensor, 1}, threads);
    pages_.open();
    rmsprop::set_thread_use(before);
    sigaction(SIGSEGV, &before_segv, nullptr);
    sigaction(SIGBUS, &before_bus, nullptr);
    return {owners_.get(), owners_.get() + pages_.page_count()};
  }

 private:
  static void note_down(int signal, siginfo_t* info, void*) {
    const WatchedParameter& w = *watched_;
    const auto* address = static_cast<std::byte*>(info->si_addr);
    if (address < w.pages_.begin() || address >= w.pages_.end()) {  // a real fault: let it end the program
      std::signal(signal, SIG_DFL);
      return;
    }
    const auto page = static_cast<std::size_t>(address - w.pages_.begin()) / w.pages_.page_size();
    pthread_t nobody = {};
    w.owners_[page].compare_exchange_strong(nobody, pthread_self());
    w.pages_.open_page(page);
  }

  static inline const WatchedParameter* watched_ = nullptr;

  GuardedPages pages_;
  std::unique_ptr<std::atomic<pthread_t>[]> owners_;
  std::int64_t size_;
  std::vector<float> grad_, square_avg_;
};

std::map<pthread_t, std::int64_t> pages_per_thread(const std::vector<pthread_t>& owners) {
  std::map<pthread_t, std::int64_t> count;
  for (const pthread_t owner : owners) ++count[owner];
  return count;
}

constexpr std::int64_t long_size = 600'000;  // 586 pages of 4 KiB

std::size_t threads_granted(int wanted) {
  return rmsprop::openmp_version() == 0 ? 1 : static_cast<std::size_t>(wanted);
}

}  // namespace

TEST_CASE("a long tensor is cut into one even, contiguous share per thread") {
  WatchedParameter parameter(long_size);
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    const std::vector<pthread_t> owners = parameter.owners_in_step(threads);
    const auto count = pages_per_thread(owners);
    REQUIRE(count.size() == threads_granted(threads));
    const auto even = static_cast<double>(owners.size()) / static_cast<double>(count.size());
    for (const auto& [owner, pages] : count) {
      CHECK(static_cast<double>(pages) >= even - 2.0);
      CHECK(static_cast<double>(pages) <= even + 2.0);
    }
    std::size_t changes = 0;
    for (std::size_t i = 1; i < owners.size(); ++i) changes += owners[i] != owners[i - 1];
    CHECK(changes == count.size() - 1);
  }
}

TEST_CASE("a thread gets the memory it had in the step before") {
  WatchedParameter parameter(long_size);
  const std::vector<pthread_t> first = parameter.owners_in_step(3);
  const std::vector<pthread_t> second = parameter.owners_in_step(3);
  std::size_t moved = 0;
  for (std::size_t i = 0; i < first.size(); ++i) moved += first[i] != second[i];
  CHECK(moved <= 2);  // the pages that two shares meet in
}

TEST_CASE("little work stays on the calling thread") {
  WatchedParameter parameter(4'096);
  for (const int threads : {1, 3}) {
    for (const pthread_t owner : parameter.owners_in_step(threads)) CHECK(pthread_equal(owner, pthread_self()));
  }
}

TEST_CASE("num_threads 0 takes the number of the process") {
  const int before = rmsprop::get_num_threads();
  WatchedParameter parameter(long_size);
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    rmsprop::set_num_threads(threads);
    CHECK(pages_per_thread(parameter.owners_in_step(0)).size() == threads_granted(threads));
  }
  rmsprop::set_num_threads(before);
}

#endif
