// The engine: shares, threads, and many tensors in one step.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <limits>
#include <new>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "allocations.hpp"
#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

TEST_CASE_TEMPLATE("a long tensor gets the specified bits on any number of threads and every instruction set", T, float,
                   double) {
  const std::int64_t size = 100'003;  // a dozen shares' worth
  const Operands<T> initial = ordinary_operands<T>(size, 1);
  for (const Case& c : every_formula()) {
    const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
    on_every_instruction_set([&](const std::string& set) {
      for (const int threads : {1, 2, 3}) {
        CAPTURE(set);
        CAPTURE(c.name);
        CAPTURE(threads);
        CHECK(step_differs(c, 1, initial, wanted, size, threads) == "");
      }
    });
  }
}

TEST_CASE_TEMPLATE("a step gives the specified bits wherever its arrays begin", T, float, double) {
  const std::int64_t longest = 67;
  const Operands<T> initial = ordinary_operands<T>(longest, 2);
  for (const Case& c : every_rule()) {
    const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
    on_every_instruction_set([&](const std::string& set) {
      for (int offset = 0; offset < 16; ++offset) {
        for (std::int64_t size = 0; size <= longest; ++size) {
          CAPTURE(set);
          CAPTURE(c.name);
          CAPTURE(offset);
          const typename GuardedOperands<T>::Offsets offsets = {offset, (3 * offset + 1) % 16, (5 * offset + 2) % 16,
                                                                (7 * offset) % 16, 15 - offset};
          CHECK(step_differs(c, 1, initial, wanted, size, 1, offsets) == "");
        }
      }
    });
  }
}

TEST_CASE_TEMPLATE("operands that lie side by side in memory, in any order, get the specified bits", T, float, double) {
  const std::int64_t longest = 67;
  const Operands<T> initial = ordinary_operands<T>(longest, 10);
  const Case c = every_rule().back();  // has all operands
  const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
  const rmsprop::Update update = make_update(c.hyperparameters, 1);
  on_every_instruction_set([&](const std::string& set) {
    for (std::int64_t size = 1; size <= longest; ++size) {
      std::array<int, rmsprop::operand_count> order = {0, 1, 2, 3, 4};
      do {
        std::vector<T> buffer(static_cast<std::size_t>(size * rmsprop::operand_count));
        std::array<T*, rmsprop::operand_count> data;
        T* next = buffer.data();
        for (const int operand : order) {
          data[operand] = next;
          next = std::copy_n(initial[operand].begin(), size, next);
        }
        rmsprop::Tensor tensor;
        for (const int operand : order) tensor.data[operand] = reinterpret_cast<std::byte*>(data[operand]);
        tensor.update = &update;
        tensor.size = size;
        tensor.dtype = dtype_of<T>;
        rmsprop::step({&tensor, 1}, 1);
        for (const int operand : order) {
          CAPTURE(set);
          CHECK(difference(data[operand], wanted[operand], size, operand) == "");
        }
      } while (std::next_permutation(order.begin(), order.end()));
    }
  });
}

TEST_CASE_TEMPLATE("shares meet without a gap or an overlap wherever a tensor begins and ends", T, float, double) {
  // Adagrad's sum shows an element that was stepped twice or never.
  const Case c = {"adagrad", rmsprop::Adagrad{}};
  const std::int64_t shortest = 40'000;
  const Operands<T> initial = ordinary_operands<T>(shortest + 67, 3);
  const Operands<T> wanted = oracle_step(c.hyperparameters, 1, initial);
  for (const int threads : {2, 3}) {
    for (std::int64_t size = shortest; size <= shortest + 67; ++size) {
      const int offset = static_cast<int>(size % 16);
      CAPTURE(threads);
      CHECK(step_differs(c, 1, initial, wanted, size, threads, {offset, 0, 0, 0, 0}) == "");
    }
  }
}

namespace {

// Tensors of both element types, of every rule and preparation, stepped by one call.
class MixedTensors {
 public:
  explicit MixedTensors(std::uint64_t seed) : random_(seed) {}

  void add(std::int64_t size, std::size_t i) {
    static const std::vector<Case> cases = every_formula();
    Case c = cases[i % cases.size()];
    if (i % 3 == 1) preparation(c.hyperparameters) = {0.5, 1.0, 0.4, i % 2 == 0, 0.01, i % 4 == 0};
    if (i % 2 == 0) {
      add_as<float>(c, size);
    } else {
      add_as<double>(c, size);
    }
  }

  void step(int threads) {
    std::vector<rmsprop::Tensor> tensors;
    for (Entry& entry : entries_) {
      tensors.push_back(std::visit([&](auto& arrays) { return arrays.got.tensor(entry.update); }, entry.arrays));
    }
    rmsprop::step(tensors, threads);
  }

  std::string differs() const {
    for (const Entry& entry : entries_) {
      const std::string text =
          std::visit([](const auto& arrays) { return arrays.got.differs_from(arrays.wanted); }, entry.arrays);
      if (!text.empty()) return entry.name + ": " + text;
    }
    return "";
  }

 private:
  template <class T>
  struct Arrays {
    GuardedOperands<T> got;
    Operands<T> wanted;
  };
  struct Entry {
    std::string name;
    rmsprop::Update update;
    std::variant<Arrays<float>, Arrays<double>> arrays;
  };

  template <class T>
  void add_as(const Case& c, std::int64_t size) {
    const Operands<T> initial = ordinary_operands<T>(size, random_());
    typename GuardedOperands<T>::Offsets offsets = {};
    for (int& offset : offsets) offset = static_cast<int>(integer(random_, 0, 15));
    entries_.push_back(
        {c.name, make_update(c.hyperparameters, 1),
         Arrays<T>{GuardedOperands<T>(initial, size, offsets), oracle_step(c.hyperparameters, 1, initial)}});
  }

  Random random_;
  std::deque<Entry> entries_;
};

}  // namespace

TEST_CASE("1000 small tensors beside a big one are stepped each once on any number of threads") {
  on_every_instruction_set([&](const std::string& set) {
    for (const int threads : {1, 2, 3, 8}) {
      for (const std::size_t where : {0, 500, 1'000}) {  // the big one comes first, between and last
        CAPTURE(set);
        CAPTURE(threads);
        CAPTURE(where);
        MixedTensors tensors(4);
        for (std::size_t i = 0; i <= 1'000; ++i) {
          tensors.add(i == where ? 50'001 : static_cast<std::int64_t>(i * 37 % 101), i);
        }
        tensors.step(threads);
        CHECK(tensors.differs() == "");
      }
    }
  });
}

TEST_CASE("small tensors alone are stepped each once when shares are cut between and inside them") {
  for (const int threads : {1, 2, 3, 16}) {
    CAPTURE(threads);
    MixedTensors tensors(5);
    for (std::size_t i = 0; i < 3'000; ++i) tensors.add(static_cast<std::int64_t>(i % 130), i);
    tensors.step(threads);
    CHECK(tensors.differs() == "");
  }
}

TEST_CASE("no tensors, and tensors without elements, are no work") {
  rmsprop::step({}, 1);
  rmsprop::step({}, 3);
  const rmsprop::Update update = rmsprop::make_update(rmsprop::RMSprop{}, 1);
  rmsprop::Tensor empty;
  empty.update = &update;
  const std::vector<rmsprop::Tensor> tensors(5'000, empty);
  for (const int threads : {1, 3}) rmsprop::step(tensors, threads);
}

TEST_CASE("more threads than CPUs, or than there can be, give the same bits") {
  const std::int64_t size = 300'000;
  const Operands<float> initial = ordinary_operands<float>(size, 7);
  const Case c = {"rmsprop", rmsprop::RMSprop{}};
  const Operands<float> wanted = oracle_step(c.hyperparameters, 1, initial);
  CHECK(step_differs(c, 1, initial, wanted, size, 30) == "");
  CHECK(step_differs(c, 1, initial, wanted, size, std::numeric_limits<int>::max()) == "");
}

TEST_CASE("threads that step tensors of their own at the same time do not disturb each other") {
  const Case c = {"rmsprop", rmsprop::RMSprop{}};
  const std::int64_t size = 60'000;
  std::array<std::string, 3> differences;
  std::vector<std::thread> threads;
  for (std::string& text : differences) {
    threads.emplace_back([&, seed = threads.size()] {
      const Operands<float> initial = ordinary_operands<float>(size, seed);
      const Operands<float> wanted = oracle_step(c.hyperparameters, 1, initial);
      for (int round = 0; round < 50 && text.empty(); ++round) text = step_differs(c, 1, initial, wanted, size, 2);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : differences) CHECK(text == "");
}

TEST_CASE("threads may step while others change the number of threads and the instruction set") {
  const Case c = {"rmsprop", rmsprop::RMSprop{}};
  const std::int64_t size = 60'000;
  const Operands<float> initial = ordinary_operands<float>(size, 13);
  const Operands<float> wanted = oracle_step(c.hyperparameters, 1, initial);
  const int before = rmsprop::get_num_threads();
  std::atomic<bool> stop{false};
  std::thread threads_changer([&] {
    for (int i = 0; !stop; ++i) rmsprop::set_num_threads(1 + i % 3);
  });
  std::thread set_changer([&] {
    while (!stop) on_every_instruction_set([](const std::string&) { std::this_thread::yield(); });
  });
  std::array<std::string, 2> differences;
  std::vector<std::thread> steppers;
  for (std::string& text : differences) {
    steppers.emplace_back([&] {
      for (int round = 0; round < 50 && text.empty(); ++round) text = step_differs(c, 1, initial, wanted, size, 0);
    });
  }
  for (std::thread& thread : steppers) thread.join();
  stop = true;
  threads_changer.join();
  set_changer.join();
  rmsprop::set_num_threads(before);
  for (const std::string& text : differences) CHECK(text == "");
}

#if defined(_OPENMP)
TEST_CASE("a step inside a parallel region of the host, which grants it one thread, does all its shares") {
  const Case c = {"rmsprop", rmsprop::RMSprop{}};
  const Operands<float> initial = ordinary_operands<float>(100'003, 11);
  const Operands<float> wanted = oracle_step(c.hyperparameters, 1, initial);
  std::array<std::string, 2> differences;
#pragma omp parallel num_threads(2)
  differences[static_cast<std::size_t>(omp_get_thread_num())] = step_differs(c, 1, initial, wanted, 100'003, 3);
  for (const std::string& text : differences) CHECK(text == "");
}
#endif

TEST_CASE("a change of the number of threads between steps changes no bit") {
  const std::int64_t size = 60'000;
  const Case c = {"rmsprop_momentum", std::get<rmsprop::RMSprop>(every_rule()[2].hyperparameters)};
  Operands<double> wanted = ordinary_operands<double>(size, 8);
  GuardedOperands<double> operands(wanted, size);
  std::int64_t t = 0;
  for (const int threads : {1, 3, 2, 1, 2, 3}) {
    const rmsprop::Update update = make_update(c.hyperparameters, ++t);
    const rmsprop::Tensor tensor = operands.tensor(update);
    rmsprop::step({&tensor, 1}, threads);
    wanted = oracle_step(c.hyperparameters, t, std::move(wanted));
  }
  CHECK(operands.differs_from(wanted) == "");
}

TEST_CASE("a step allocates nothing once its threads are started") {
  const std::int64_t size = 100'000;
  Case c = every_rule().back();
  preparation(c.hyperparameters).grad_scale = 0.5;
  GuardedOperands<double> operands(ordinary_operands<double>(size, 9), size);
  const rmsprop::Update update = make_update(c.hyperparameters, 1);
  const rmsprop::Tensor tensor = operands.tensor(update);
  for (const int threads : {1, 2}) {
    rmsprop::step({&tensor, 1}, threads);
    const std::int64_t before = allocation_count();
    rmsprop::step({&tensor, 1}, threads);
    CHECK(allocation_count() == before);
  }
  const std::int64_t before = allocation_count();
  ::operator delete(::operator new(1));
  CHECK(allocation_count() == before + 1);  // allocations are counted
}
