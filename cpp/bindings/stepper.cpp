#include "stepper.hpp"

#include <pybind11/native_enum.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "rules.hpp"
#include "sources/columns.hpp"

namespace rmsprop::bindings {
namespace {

// Below this many elements a step ends before another thread could use the GIL.
constexpr std::int64_t elements_worth_releasing_the_gil = 100'000;

// Releases what was gathered for a step when the step ends.
class LetGo {
 public:
  LetGo(Plan& plan, std::vector<Group>& groups) : plan_(plan), groups_(groups) {}
  ~LetGo() {
    plan_.clear();
    for (Group& group : groups_) group.let_go();
  }
  LetGo(const LetGo&) = delete;
  LetGo& operator=(const LetGo&) = delete;

 private:
  Plan& plan_;
  std::vector<Group>& groups_;
};

double grad_scale_from(const py::object& object) {
  const double scale = number_from(object.ptr(), "grad_scale");
  if (!std::isfinite(scale))
    raise_value_error({"grad_scale"}, "got " + repr(object.ptr()) + ", wanted a finite number");
  return scale;
}

// Not by the operator new of the class, which only refuses those that were never initialized.
std::unique_ptr<Stepper> make_stepper(const std::string& rule, Naming naming) {
  return std::unique_ptr<Stepper>(::new Stepper(rule, naming));  // NOLINT(modernize-make-unique)
}

// Of lambdas, whose calls become the overloads of one.
template <class... Cases>  // NOLINTNEXTLINE(misc-multiple-inheritance)
struct Overloaded : Cases... {
  using Cases::operator()...;
};

}  // namespace

std::unique_ptr<Stepper> Stepper::twin() const {
  std::unique_ptr<Stepper> twin = make_stepper(rule_.info().name, naming_);
  twin->busy_ = busy_;
  return twin;
}

py::object Stepper::num_threads() const {
  const int n = num_threads_;
  return n == 0 ? py::object(py::none()) : py::int_(n);
}

// May run any Python code: schedules are called. `steps` is null if there are no step counts.
void Stepper::read_groups(Groups& groups, const py::object& list, PyObject* steps, double grad_scale,
                          bool again) const {
  if (!PyList_Check(list.ptr())) {
    raise_type_error({"param_groups"}, "got " + type_name(list.ptr()) + ", wanted a list of dicts");
  }
  const auto count = static_cast<std::size_t>(PyList_GET_SIZE(list.ptr()));
  if (groups.size() != count) groups = Groups(count);
  Group::Origin origin = {0, count == 1, 0, steps};
  for (Group& group : groups) {
    const py::object dict = item_of(list.ptr(), origin.index);
    if (!dict) break;
    (group.*(again ? &Group::read_again : &Group::read))(rule_, naming_, dict, origin, grad_scale);
    ++origin.index;
    origin.first_param += static_cast<std::size_t>(PyList_GET_SIZE(group.params().ptr()));
  }
  if (origin.index != count || static_cast<std::size_t>(PyList_GET_SIZE(list.ptr())) != count) {
    raise_value_error({"param_groups"}, "a schedule added or removed a group");
  }
}

void Stepper::raise_outcome(const Outcome& outcome, const Source& source, const Gathered& gathered) const {
  const auto label = [&](const ArrayId& array) {
    return source.label(gathered.param(array.tensor).index, array.operand);
  };
  const auto array = [&](const ArrayId& id) { return gathered.objects()[id.tensor][id.operand]; };
  std::visit(Overloaded{
                 [](const Ready&) {},
                 [&](const Source::Missing& missing) {
                   raise_value_error(source.label(missing.index, missing.operand),
                                     "got None, but these hyperparameters need it");
                 },
                 [&](const Refused& refused) {
                   raise(refused.problem, label(refused.array), label({refused.array.tensor, param}),
                         array(refused.array), naming_ == Naming::torch);
                 },
                 [&](const Overlapping& overlapping) {
                   raise_value_error(label(overlapping.arrays.written),
                                     "shares memory with " + label(overlapping.arrays.other).text() +
                                         ", so that updating one would change the other");
                 },
                 [](const Replaced&) {
                   throw std::runtime_error(
                       "step: arrays were replaced or resized by other code while they were being checked");
                 },
             },
             outcome);
  throw std::logic_error("step: refused for no reason");
}

// Plans until there is nothing left that the source can mend.
bool Stepper::run(Source& source) {
  const Nonfinite nonfinite = nonfinite_;
  const bool with_norm =
      nonfinite != Nonfinite::propagate ||
      std::any_of(groups_.begin(), groups_.end(), [](const Group& group) { return std::isfinite(group.clip_norm()); });
  const auto purpose = with_norm ? Plan::Purpose::step_with_norm : Plan::Purpose::step;
  const Outcome outcome = plan_.make(source, groups_, purpose);
  if (!std::holds_alternative<Ready>(outcome)) {
    const auto* refused = std::get_if<Refused>(&outcome);
    // As in PyTorch, the front end casts state of a parameter whose dtype has changed.
    const bool lacks_state = std::holds_alternative<Source::Missing>(outcome) ||
                             (naming_ == Naming::torch && refused != nullptr && refused->array.operand > grad &&
                              refused->problem.error == Problem::Error::type);
    if (lacks_state && !source.is_completed() && naming_ != Naming::function) return false;
    raise_outcome(outcome, source, plan_.gathered());
  }
  take(nonfinite, with_norm, source);
  return true;
}

// From here on nothing can fail: pure C++, without the GIL if the step is large.
void Stepper::take(Nonfinite nonfinite, bool with_norm, Source& source) {
  const int threads = num_threads_;
  const auto gradients = plan_.gradients();
  std::size_t first_nonfinite = gradients.size();
  const bool releases_gil = plan_.elements() >= elements_worth_releasing_the_gil;
  if (releases_gil) plan_.gathered().hold();
  {
    std::optional<GilReleased> released;
    if (releases_gil) released.emplace();
    if (with_norm) {
      const double total = sum_of_squares(gradients, threads);
      // The sum of squares can overflow although every gradient is finite, so each is checked.
      const bool must_look = nonfinite != Nonfinite::propagate && !std::isfinite(total);
      if (must_look) first_nonfinite = find_nonfinite(gradients, threads);
      plan_.clip(groups_, total);
    }
    if (first_nonfinite == gradients.size()) rmsprop::step(plan_.tensors(), threads);
  }
  if (first_nonfinite == gradients.size()) {
    source.commit(plan_.gathered(), releases_gil || plan_.was_disturbed());
  } else if (nonfinite == Nonfinite::skip) {
    ++skipped_steps_;
  } else {
    plan_.gathered().hold();
    raise_value_error(source.label(plan_.gathered().param(first_nonfinite).index, grad),
                      "got a NaN or an infinity, and nonfinite is 'raise'");
  }
}

bool Stepper::step(const py::object& groups, const py::object& grads, const py::tuple& columns,
                   const py::object& grad_scale, const py::object& more) {
  const BusyScope scope(*busy_, "step");
  const LetGo let_go(plan_, groups_);
  Columns::check(columns.ptr());
  read_groups(groups_, groups, PyTuple_GET_ITEM(columns.ptr(), 2), grad_scale_from(grad_scale), !more.is_none());
  const GradientsArgument gradients(grads, PyTuple_GET_ITEM(columns.ptr(), 0), groups_,
                                    naming_ == Naming::function ? "grad" : "grads");
  Columns source(rule_, naming_, groups_, columns, &gradients, more);
  return run(source);
}

bool Stepper::step_tensors(const py::object& groups, const py::dict& state, const py::object& grad_scale,
                           const py::object& more, const py::object& on_written, std::int64_t first) {
  const BusyScope scope(*busy_, "step");
  const LetGo let_go(plan_, groups_);
  read_groups(groups_, groups, nullptr, grad_scale_from(grad_scale), !more.is_none());
  Tensors source(rule_, groups_, state, true, more, on_written, tensors_memory_, first);
  return run(source);
}

void Stepper::check_all(Source& source, Groups& groups) const {
  Plan plan;
  const Outcome outcome = plan.make(source, groups, Plan::Purpose::check);
  if (!std::holds_alternative<Ready>(outcome)) raise_outcome(outcome, source, plan.gathered());
}

void Stepper::check(const py::object& groups, const py::tuple& columns) const {
  Columns::check(columns.ptr());
  Groups own;
  read_groups(own, groups, PyTuple_GET_ITEM(columns.ptr(), 2), 1.0, false);
  Columns source(rule_, naming_, own, columns, nullptr, py::none());
  check_all(source, own);
}

void Stepper::check_tensors(const py::object& groups, const py::dict& state) const {
  Groups own;
  read_groups(own, groups, nullptr, 1.0, false);
  TensorsMemory memory;
  Tensors source(rule_, own, state, false, py::none(), py::none(), memory, 0);
  check_all(source, own);
}

py::tuple Stepper::state_names(const py::object& group) const { return py::tuple(state_formats(group)); }

namespace {

const char* name_of(StateDType state_dtype, Operand operand) {
  if (operand >= elementwise_count) return "scales";
  switch (state_packing(state_dtype, operand)) {
    case Packing::stochastic_bfloat16:
      return "bfloat16";
    case Packing::unsigned8:
      return "unsigned8";
    case Packing::signed8:
      return "signed8";
    case Packing::lower_half:
      return "lower_half";
    default:
      return "computed";
  }
}

}  // namespace

py::dict Stepper::state_formats(const py::object& group) const {
  const StateNeeded needed = state_needed_by(rule_, naming_, group);
  py::dict formats;
  for (const StateInfo& state : rule_.info().state) {
    if ((needed.operands >> state.operand & 1u) != 0) formats[state.name] = name_of(needed.state_dtype, state.operand);
  }
  return formats;
}

namespace {

// The context manager of `with stepper.hold("save"):`.
class Hold {
 public:
  Hold(std::shared_ptr<Busy> busy, const char* what) : busy_(std::move(busy)), what_(what) {}
  ~Hold() { end(); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  void enter() {
    busy_->begin(what_);
    holds_ = true;
  }
  void exit(const py::args& /*error*/) { end(); }

 private:
  void end() {
    if (holds_.exchange(false)) busy_->end();  // and not what somebody else has begun
  }

  std::atomic<bool> holds_ = false;
  std::shared_ptr<Busy> busy_;
  const char* what_;
};

// Messages refer to it, so it must be static.
const char* known_call(std::string_view what) {
  constexpr std::array calls = {"step", "load", "load_state_dict", "save", "add_param_group", "ema_weights"};
  const auto call = std::find(calls.begin(), calls.end(), what);
  return call == calls.end() ? "another call" : *call;
}

}  // namespace

void register_stepper(py::module_& m) {
  py::native_enum<Naming>(m, "Naming", "enum.Enum")
      .value("optimizer", Naming::optimizer)
      .value("function", Naming::function)
      .value("torch", Naming::torch)
      .finalize();
  py::class_<Hold> hold(m, "Hold");
  hold.def("__enter__", &Hold::enter).def("__exit__", &Hold::exit);
  refuse_new(hold);
  py::class_<Stepper>(m, "Stepper")
      .def(py::init(&make_stepper), py::arg("rule"), py::arg("naming"))
      .def("step", &Stepper::step, py::arg("groups"), py::arg("grads"), py::arg("columns"), py::arg("grad_scale"),
           py::arg("more"))
      .def("step_tensors", &Stepper::step_tensors, py::arg("groups"), py::arg("state"), py::arg("grad_scale"),
           py::arg("more"), py::arg("on_written"), py::arg("first") = 0)
      .def("check", &Stepper::check, py::arg("groups"), py::arg("columns"))
      .def("check_tensors", &Stepper::check_tensors, py::arg("groups"), py::arg("state"))
      .def("state_names", &Stepper::state_names, py::arg("group"))
      .def("state_formats", &Stepper::state_formats, py::arg("group"))
      .def(
          "hold",
          [](const Stepper& stepper, const std::string& what) {
            return std::make_unique<Hold>(stepper.busy(), known_call(what));
          },
          py::arg("what"))
      .def("twin", &Stepper::twin)
      .def_property_readonly("rule", [](const Stepper& stepper) { return describe_rule(stepper.rule().info()); })
      .def_property("nonfinite", &Stepper::nonfinite, &Stepper::set_nonfinite)
      .def_property("skipped_steps", &Stepper::skipped_steps, &Stepper::set_skipped_steps)
      .def_property("num_threads", &Stepper::num_threads, &Stepper::set_num_threads)
      .def(py::pickle(
          [](const Stepper& stepper) {
            return py::make_tuple(stepper.rule().info().name, stepper.naming(), stepper.nonfinite(),
                                  stepper.num_threads(), stepper.skipped_steps());
          },
          [](const py::tuple& made_from) {
            auto stepper = make_stepper(made_from[0].cast<std::string>(), made_from[1].cast<Naming>());
            stepper->set_nonfinite(made_from[2]);
            stepper->set_num_threads(made_from[3]);
            stepper->set_skipped_steps(made_from[4].cast<std::int64_t>());
            return stepper;
          }));
}

}  // namespace rmsprop::bindings
