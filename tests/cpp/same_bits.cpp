// Computes the hashes of tests/same_bits.txt with the engine and compares: the same bits on every machine, with every
// compiler, on every instruction set, in any layout, on any number of threads.
//
//     same_bits TABLE
//
// A line of the table says what is computed (see tests/same_bits.py, which writes it). Inputs are made from integers
// alone and hashes are taken of integers, so nothing here can hide or cause a difference. Prints a line for each
// instruction set: those that this machine has, or the one that RMSPROP_ISA names. The exit code is 0 if all agree.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "rmsprop/rmsprop.hpp"

namespace {

using rmsprop::Operand;
using Word = std::uint64_t;

// ---- Numbers, as integers -------------------------------------------------------------------------------------------

struct Format {
  int exponent_bits;
  int mantissa_bits;
  bool is_number = true;  // otherwise any bits will do, and all of them count

  std::int64_t bytes() const { return (1 + exponent_bits + mantissa_bits) / 8; }
  Word infinity() const { return ((Word{1} << exponent_bits) - 1) << mantissa_bits; }
  Word canonical_nan() const { return infinity() | Word{1} << (mantissa_bits - 1); }
  Word sign_bit() const { return Word{1} << (exponent_bits + mantissa_bits); }
};

constexpr Format float32 = {8, 23};
constexpr Format float64 = {11, 52};
constexpr Format bfloat16 = {8, 7};
constexpr Format float16 = {5, 10};
constexpr Format codes = {0, 8, false};
constexpr Format halves = {0, 16, false};

// What a line calls a dtype: the formats of the parameter, of the gradient and of the state.
struct DType {
  std::string_view name;
  std::array<Format, 3> formats;
  rmsprop::DType computed;
  rmsprop::Packing packing;

  const Format& format(int operand, const rmsprop::Storage& storage) const {
    if (operand == rmsprop::param_low) return halves;
    if (operand > rmsprop::param_low) return codes;
    if (operand > rmsprop::grad) {
      const rmsprop::Packing stored = rmsprop::state_packing(storage.state_dtype, operand);
      if (rmsprop::has_scales(stored)) return codes;
      if (stored == rmsprop::Packing::stochastic_bfloat16) return bfloat16;
    }
    return formats[std::min(operand, 2)];
  }
};

constexpr DType dtypes[] = {
    {"float32", {float32, float32, float32}, rmsprop::DType::float32, rmsprop::Packing::none},
    {"float64", {float64, float64, float64}, rmsprop::DType::float64, rmsprop::Packing::none},
    {"bfloat16", {bfloat16, bfloat16, float32}, rmsprop::DType::float32, rmsprop::Packing::bfloat16},
    {"float16", {float16, float16, float32}, rmsprop::DType::float32, rmsprop::Packing::float16},
};

// Every bit of the result depends on every bit of the argument (SplitMix64's finalizer).
Word mixed(Word word) {
  word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9u;
  word = (word ^ word >> 27) * 0x94D049BB133111EBu;
  return word ^ word >> 31;
}

enum Kind : int { fresh, ordinary, subnormal, extreme, special };
constexpr std::array kind_names = {"fresh", "ordinary", "subnormal", "extreme", "special"};
constexpr int kind_count = std::size(kind_names);

std::vector<Word> special_magnitudes(const Format& format) {
  const Word one = ((Word{1} << (format.exponent_bits - 1)) - 1) << format.mantissa_bits;
  const Word tiny = Word{1} << format.mantissa_bits;
  return {0,
          1,
          tiny - 1,
          tiny,
          one,
          one + 1,
          format.infinity() - 1,
          format.infinity(),
          format.infinity() + 1,
          format.canonical_nan()};
}

// The bits of `size` numbers of a kind.
std::vector<Word> inputs(const Format& format, int kind, int operand, int step, std::int64_t size) {
  std::vector<Word> numbers(static_cast<std::size_t>(size), 0);
  if (kind == fresh && operand >= rmsprop::square_avg) return numbers;
  const std::vector<Word> specials = special_magnitudes(format);
  const auto stream = static_cast<Word>(kind * 64 + operand * 8 + step);
  const Word lowest = (Word{1} << (format.exponent_bits - 1)) - 1 - 8;  // the exponent of 2^-8
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const Word random = mixed((stream << 32) + i + 1);
    if (!format.is_number) {
      numbers[i] = random >> (64 - format.mantissa_bits);
      continue;
    }
    const Word pick = random >> 52 & 0x7FF;
    Word exponent = lowest + pick % 10;
    if (kind == subnormal) exponent = pick % 4;
    if (kind == extreme) exponent = pick % ((Word{1} << format.exponent_bits) - 1);
    Word magnitude = exponent << format.mantissa_bits | (random & ((Word{1} << format.mantissa_bits) - 1));
    if (kind == special && pick % (2 * specials.size()) < specials.size()) {
      magnitude = specials[pick % (2 * specials.size())];
    }
    const bool negative = random >> 63 != 0 && (operand != rmsprop::square_avg || kind == special);
    numbers[i] = negative ? format.sign_bit() | magnitude : magnitude;
  }
  return numbers;
}

Word hashed(Word number, const Format& format, int place, std::int64_t index) {
  const bool is_nan = format.is_number && (number & ~format.sign_bit()) > format.infinity();
  const Word where = mixed((static_cast<Word>(place + 1) << 32) + static_cast<Word>(index));
  return mixed((is_nan ? format.canonical_nan() : number) ^ where);
}

// Numbers lie in memory as integers of their size, so that their byte order is the machine's own.
template <class Use>
void with_word_of(const Format& format, Use use) {
  switch (format.bytes()) {
    case 1:
      return use(std::uint8_t{});
    case 2:
      return use(std::uint16_t{});
    case 4:
      return use(std::uint32_t{});
    default:
      return use(std::uint64_t{});
  }
}

void write(std::byte* at, Word number, const Format& format) {
  with_word_of(format, [&](auto word) {
    word = static_cast<decltype(word)>(number);
    std::memcpy(at, &word, sizeof word);
  });
}

Word read(const std::byte* at, const Format& format) {
  Word number = 0;
  with_word_of(format, [&](auto word) {
    std::memcpy(&word, at, sizeof word);
    number = word;
  });
  return number;
}

// ---- Arrays ---------------------------------------------------------------------------------------------------------

constexpr std::array<std::int64_t, 2> shape = {7, 19};
constexpr std::int64_t element_count = shape[0] * shape[1];
constexpr int step_count = 2;

// How an operand lies in memory.
struct Placement {
  std::int64_t first;                   // bytes from the beginning of its memory
  std::array<std::int64_t, 2> strides;  // in bytes
};

struct Arrangement {
  const char* name;
  Placement (*placement)(std::int64_t item, int operand);
};

constexpr Arrangement arrangements[] = {
    {"dense", [](std::int64_t item, int) { return Placement{0, {shape[1] * item, item}}; }},
    {"dense, off the cache lines",
     [](std::int64_t item, int operand) { return Placement{(1 + 2 * operand) * item, {shape[1] * item, item}}; }},
    {"with gaps",
     [](std::int64_t item, int operand) {
       const std::int64_t gap = (2 + operand % 2) * item;
       return Placement{item, {shape[1] * gap + item, gap}};
     }},
    {"reversed",
     [](std::int64_t item, int) { return Placement{(element_count - 1) * item, {-shape[1] * item, -item}}; }},
    {"some transposed",
     [](std::int64_t item, int operand) {
       return operand % 2 == 0 ? Placement{0, {item, shape[0] * item}} : Placement{0, {shape[1] * item, item}};
     }},
    {"not aligned", [](std::int64_t item, int) { return Placement{1, {shape[1] * item, item}}; }},
};

// One operand in memory of its own, arranged somehow.
class Array {
 public:
  Array(const Format& format, int operand, const Arrangement& arrangement, std::int64_t size)
      : format_(format), placement_(arrangement.placement(format.bytes(), operand)), size_(size) {
    memory_.resize(static_cast<std::size_t>(6 * (element_count + 16) * format.bytes()));
  }

  void fill(const std::vector<Word>& numbers) {
    for (std::int64_t i = 0; i < size_; ++i) {
      write(memory_.data() + address(i), numbers[static_cast<std::size_t>(i)], format_);
    }
  }

  Word hash(int operand) const {
    Word sum = 0;
    for (std::int64_t i = 0; i < size_; ++i) {
      sum += hashed(read(memory_.data() + address(i), format_), format_, operand, i);
    }
    return sum;
  }

  std::byte* data() { return memory_.data() + placement_.first; }
  std::int64_t stride(int dimension) const { return placement_.strides[dimension]; }

 private:
  std::int64_t address(std::int64_t i) const {
    return placement_.first + i / shape[1] * placement_.strides[0] + i % shape[1] * placement_.strides[1];
  }

  Format format_;
  Placement placement_;
  std::int64_t size_;
  std::vector<std::byte> memory_;
};

// ---- The table ------------------------------------------------------------------------------------------------------

using Hyperparameters = std::variant<rmsprop::RMSprop, rmsprop::Adagrad>;

struct Line {
  std::string text;  // all but the hashes
  DType dtype = dtypes[0];
  Hyperparameters hyperparameters;
  std::int64_t t = 1;
  double clip_norm = 0.0;           // 0: none
  std::int64_t sum_of_squares = 0;  // the number of gradients if that is what is computed; 0: steps
  std::array<Word, kind_count> hashes = {};
};

[[noreturn]] void reject(const std::string& line, const std::string& what) {
  throw std::runtime_error("table: " + what + " in the line: " + line);
}

bool truth(const std::string& value) { return value == "true"; }

using Setter = void (*)(Line& line, const std::string& value);

rmsprop::RMSprop& rmsprop_of(Line& line) { return std::get<rmsprop::RMSprop>(line.hyperparameters); }

template <class Set>
void set_in_either(Line& line, Set set) {
  std::visit(set, line.hyperparameters);
}

double number(const std::string& text) { return std::strtod(text.c_str(), nullptr); }

rmsprop::StateDType state_dtype(const std::string& name) {
  return name == "8bit" ? rmsprop::StateDType::eight_bits : rmsprop::StateDType::bfloat16;
}

template <class Set>
void set_storage(Line& line, Set set) {
  set_in_either(line, [&](auto& h) { set(h.storage); });
}

const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> setters = {
      {"lr", [](Line& l, const std::string& v) { set_in_either(l, [&](auto& h) { h.lr = number(v); }); }},
      {"eps", [](Line& l, const std::string& v) { set_in_either(l, [&](auto& h) { h.eps = number(v); }); }},
      {"eps_in_sqrt",
       [](Line& l, const std::string& v) { set_in_either(l, [&](auto& h) { h.eps_in_sqrt = truth(v); }); }},
      {"lr_decay",
       [](Line& l, const std::string& v) { std::get<rmsprop::Adagrad>(l.hyperparameters).lr_decay = number(v); }},
      {"alpha", [](Line& l, const std::string& v) { rmsprop_of(l).alpha = number(v); }},
      {"momentum", [](Line& l, const std::string& v) { rmsprop_of(l).momentum = number(v); }},
      {"nesterov", [](Line& l, const std::string& v) { rmsprop_of(l).nesterov = truth(v); }},
      {"centered", [](Line& l, const std::string& v) { rmsprop_of(l).centered = truth(v); }},
      {"lr_in_momentum", [](Line& l, const std::string& v) { rmsprop_of(l).lr_in_momentum = truth(v); }},
      {"bias_correction", [](Line& l, const std::string& v) { rmsprop_of(l).bias_correction = truth(v); }},
      {"grad_scale",
       [](Line& l, const std::string& v) { set_in_either(l, [&](auto& h) { h.prepare.grad_scale = number(v); }); }},
      {"clip_value",
       [](Line& l, const std::string& v) { set_in_either(l, [&](auto& h) { h.prepare.clip_value = number(v); }); }},
      {"maximize",
       [](Line& l, const std::string& v) { set_in_either(l, [&](auto& h) { h.prepare.maximize = truth(v); }); }},
      {"weight_decay",
       [](Line& l, const std::string& v) { set_in_either(l, [&](auto& h) { h.prepare.weight_decay = number(v); }); }},
      {"decoupled_weight_decay",
       [](Line& l, const std::string& v) {
         set_in_either(l, [&](auto& h) { h.prepare.decoupled_weight_decay = truth(v); });
       }},
      {"state_dtype",
       [](Line& l, const std::string& v) { set_storage(l, [&](auto& s) { s.state_dtype = state_dtype(v); }); }},
      {"master_weights",
       [](Line& l, const std::string&) {
         set_storage(l, [&](auto& s) { s.master_weights = rmsprop::MasterWeights::split; });
       }},
      {"stochastic_rounding",
       [](Line& l, const std::string& v) { set_storage(l, [&](auto& s) { s.stochastic_rounding = truth(v); }); }},
      {"ema_decay", [](Line& l, const std::string& v) { set_storage(l, [&](auto& s) { s.ema_decay = number(v); }); }},
      {"seed",
       [](Line& l, const std::string& v) {
         set_storage(l, [&](auto& s) { s.seed = static_cast<std::uint64_t>(std::stoull(v)); });
       }},
      {"clip_norm", [](Line& l, const std::string& v) { l.clip_norm = number(v); }},
      {"t", [](Line& l, const std::string& v) { l.t = std::stoll(v); }},
      {"n", [](Line& l, const std::string& v) { l.sum_of_squares = std::stoll(v); }},
  };
  return setters;
}

Line parsed(const std::string& text) {
  const std::size_t bar = text.find(" | ");
  if (bar == std::string::npos) reject(text, "no hashes");
  Line line;
  line.text = text.substr(0, bar);
  std::istringstream words(line.text);
  std::string dtype, rule, word;
  words >> dtype >> rule;
  const auto* found =
      std::find_if(std::begin(dtypes), std::end(dtypes), [&](const DType& d) { return d.name == dtype; });
  if (found == std::end(dtypes)) reject(text, "unknown dtype '" + dtype + "'");
  line.dtype = *found;
  if (rule == "adagrad") line.hyperparameters = rmsprop::Adagrad{};
  set_in_either(line, [](auto& h) { h.lr = 0.01; });
  while (words >> word) {
    const std::size_t equals = word.find('=');
    const auto setter = setters().find(word.substr(0, equals));
    if (setter == setters().end()) reject(text, "unknown option '" + word + "'");
    setter->second(line, word.substr(equals + 1));
  }
  std::istringstream hashes(text.substr(bar + 3));
  for (Word& hash : line.hashes) hashes >> std::hex >> hash;
  if (!hashes) reject(text, "too few hashes");
  return line;
}

std::vector<Line> read_table(const char* path) {
  std::ifstream file(path);
  std::vector<Line> lines;
  for (std::string text; std::getline(file, text);) {
    if (!text.empty() && text[0] != '#') lines.push_back(parsed(text));
  }
  if (lines.empty()) throw std::runtime_error(std::string("table: found no lines in '") + path + "'");
  return lines;
}

// ---- What the engine computes ---------------------------------------------------------------------------------------

rmsprop::Update update_of(const Line& line, std::int64_t t) {
  return std::visit([&](const auto& h) { return rmsprop::make_update(h, t); }, line.hyperparameters);
}

const rmsprop::Storage& storage_of(const Line& line) {
  return std::visit([](const auto& h) -> const rmsprop::Storage& { return h.storage; }, line.hyperparameters);
}

// How a parameter is stored.
rmsprop::Packing param_packing(const Line& line) {
  const rmsprop::Storage& storage = storage_of(line);
  if (storage.master_weights == rmsprop::MasterWeights::split) return rmsprop::Packing::split;
  return storage.stochastic_rounding ? rmsprop::Packing::stochastic_bfloat16 : line.dtype.packing;
}

// The arrays of one line with inputs of one kind.
class Problem {
 public:
  Problem(const Line& line, int kind, const Arrangement& arrangement)
      : line_(line), kind_(kind), update_(update_of(line, line.t)) {
    for (int operand = 0; operand < rmsprop::array_count; ++operand) {
      const bool is_scale = operand >= rmsprop::elementwise_count;
      arrays_.emplace_back(format_of(operand), operand, is_scale ? arrangements[0] : arrangement, size_of(operand));
      if (!is_needed(operand)) continue;
      fill(operand, 0);
      tensor_.data[operand] = arrays_[operand].data();
    }
    tensor_.update = &update_;
    tensor_.size = element_count;
    tensor_.dtype = line.dtype.computed;
    tensor_.packing = {param_packing(line), line.dtype.packing};
    for (int operand = rmsprop::square_avg; operand < rmsprop::elementwise_count; ++operand) {
      if (is_needed(operand)) {
        tensor_.packing[operand] = rmsprop::state_packing(storage_of(line).state_dtype, operand);
      }
    }
    tensor_.layout = laid_out(layout_, rmsprop::normalize) ? nullptr : &layout_;
  }

  // What a step needs before it can be taken.
  void prepare_step(int step, int threads) {
    fill(rmsprop::grad, step);
    update_ = update_of(line_, line_.t + step);
    tensor_.random = rmsprop::random_key(storage_of(line_).seed, line_.t + step, 0);
    if (line_.clip_norm == 0.0) return;
    rmsprop::Layout in_order;
    rmsprop::Tensor gradient = tensor_;
    gradient.layout = laid_out(in_order, rmsprop::normalize_in_order) ? nullptr : &in_order;
    const double sum = rmsprop::sum_of_squares({&gradient, 1}, threads);
    rmsprop::set_clip_scale(update_, rmsprop::clip_scale(sum, line_.clip_norm));
  }

  const rmsprop::Tensor& tensor() const { return tensor_; }

  Word hash() const {
    Word sum = 0;
    for (int operand = 0; operand < rmsprop::array_count; ++operand) {
      if (is_needed(operand)) sum += arrays_[operand].hash(operand);
    }
    return sum;
  }

 private:
  bool is_needed(int operand) const {
    if (operand <= rmsprop::grad) return true;
    if (operand == rmsprop::ema) return update_.averages_param;
    if (operand == rmsprop::param_low) return storage_of(line_).master_weights == rmsprop::MasterWeights::split;
    for (const rmsprop::Operand state : {rmsprop::square_avg, rmsprop::momentum_buffer}) {
      if (operand == rmsprop::scale_of(state)) return is_needed(state) && !format_of(state).is_number;
    }
    return (rmsprop::state_of(update_.rule) >> operand & 1u) != 0;
  }

  const Format& format_of(int operand) const { return line_.dtype.format(operand, storage_of(line_)); }
  static std::int64_t size_of(int operand) {
    return operand < rmsprop::elementwise_count ? element_count : rmsprop::blocks_of(element_count);
  }

  void fill(int operand, int step) {
    arrays_[operand].fill(inputs(format_of(operand), kind_, operand, step, size_of(operand)));
  }

  bool laid_out(rmsprop::Layout& layout, bool (*normalize)(rmsprop::Layout&, const rmsprop::Tensor&)) const {
    layout.ndim = 2;
    for (int d = 0; d < layout.ndim; ++d) {
      layout.shape[d] = shape[d];
      for (int operand = 0; operand < rmsprop::elementwise_count; ++operand) {
        layout.strides[operand][d] = arrays_[operand].stride(d);
      }
    }
    return normalize(layout, tensor_);
  }

  const Line& line_;
  int kind_;
  rmsprop::Update update_;
  rmsprop::Layout layout_;
  rmsprop::Tensor tensor_;
  std::vector<Array> arrays_;
};

constexpr std::array thread_counts = {1, 2, 3, 8};

class Comparison {
 public:
  void compare(const Line& line, int kind, Word hash, const std::string& way) {
    ++count_;
    if (hash == line.hashes[kind]) return;
    if (++differences_ > 10) return;
    examples_ << "  " << line.text << ", " << kind_names[kind] << " inputs, " << way << ": got " << std::hex << hash
              << ", wanted " << line.hashes[kind] << std::dec << '\n';
  }

  // Prints the outcome, and returns whether all agreed.
  bool report(std::string_view name) const {
    if (differences_ == 0) {
      std::cout << name << ": " << count_ << " hashes agree\n";
    } else {
      std::cout << name << ": " << differences_ << " of " << count_ << " hashes DIFFER\n" << examples_.str();
    }
    return differences_ == 0;
  }

 private:
  int count_ = 0;
  int differences_ = 0;
  std::ostringstream examples_;
};

// All lines in one call of step(), so that shares begin and end anywhere.
void compare_steps(const std::vector<Line>& lines, const Arrangement& arrangement, int threads,
                   Comparison& comparison) {
  std::deque<Problem> problems;
  std::vector<std::pair<const Line*, int>> origins;
  for (const Line& line : lines) {
    if (line.sum_of_squares != 0) continue;
    for (int kind = 0; kind < kind_count; ++kind) {
      problems.emplace_back(line, kind, arrangement);
      origins.emplace_back(&line, kind);
    }
  }
  for (int step = 0; step < step_count; ++step) {
    std::vector<rmsprop::Tensor> tensors;
    for (Problem& problem : problems) {
      problem.prepare_step(step, threads);
      tensors.push_back(problem.tensor());
    }
    rmsprop::step(tensors, threads);
  }
  const std::string way = std::string(arrangement.name) + ", threads=" + std::to_string(threads);
  for (std::size_t i = 0; i < problems.size(); ++i) {
    comparison.compare(*origins[i].first, origins[i].second, problems[i].hash(), way);
  }
}

void compare_sums(const std::vector<Line>& lines, Comparison& comparison) {
  for (const Line& line : lines) {
    if (line.sum_of_squares == 0) continue;
    const Format& format = line.dtype.format(rmsprop::grad, {});
    const rmsprop::Update update = update_of(line, 1);
    for (int kind = 0; kind < kind_count; ++kind) {
      std::vector<std::byte> memory(static_cast<std::size_t>(line.sum_of_squares * format.bytes()));
      std::byte* at = memory.data();
      for (const Word number : inputs(format, kind, rmsprop::grad, 0, line.sum_of_squares)) {
        write(at, number, format);
        at += format.bytes();
      }
      rmsprop::Tensor tensor;
      tensor.data[rmsprop::grad] = memory.data();
      tensor.update = &update;
      tensor.size = line.sum_of_squares;
      tensor.dtype = line.dtype.computed;
      tensor.packing = {line.dtype.packing, line.dtype.packing};
      for (const int threads : thread_counts) {
        const double sum = rmsprop::sum_of_squares({&tensor, 1}, threads);
        const auto* bytes = reinterpret_cast<const std::byte*>(&sum);
        comparison.compare(line, kind, hashed(read(bytes, float64), float64, 0, 0),
                           "threads=" + std::to_string(threads));
      }
    }
  }
}

bool agrees(const std::vector<Line>& lines, std::string_view instruction_set) {
  Comparison comparison;
  rmsprop::use_instruction_set(instruction_set);
  for (const int threads : thread_counts) {
    for (const Arrangement& arrangement : arrangements) compare_steps(lines, arrangement, threads, comparison);
  }
  compare_sums(lines, comparison);
  return comparison.report(instruction_set);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: same_bits TABLE\n";
    return 2;
  }
  try {
    const std::vector<Line> lines = read_table(argv[1]);
    rmsprop::use_instruction_set_from_environment();
    const char* isa = std::getenv("RMSPROP_ISA");
    const bool only_chosen = isa != nullptr && *isa != '\0';
    bool all_agree = true;
    for (const rmsprop::InstructionSet& set : rmsprop::instruction_sets()) {
      if (!set.supported) {
        std::cout << set.name << ": not supported by this machine\n";
      } else if (set.chosen || !only_chosen) {
        all_agree = agrees(lines, set.name) && all_agree;
      }
    }
    return all_agree ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "same_bits: " << error.what() << '\n';
    return 2;
  }
}
