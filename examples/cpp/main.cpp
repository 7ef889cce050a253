// Trains a small network to separate the inside of a ring from its outside, once with Adagrad and once with RMSprop,
// from the same weights, and prints the loss.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "rmsprop/rmsprop.hpp"

namespace {

// The distributions of the standard library differ between its implementations, so this one is our own.
float uniform(std::mt19937& random, float low, float high) {
  return low + (high - low) * static_cast<float>(random()) / static_cast<float>(std::mt19937::max());
}

struct Point {
  float x, y;
  float label;  // 1 inside of the ring, 0 elsewhere
};

std::vector<Point> make_points(std::size_t count) {
  std::mt19937 random(1);
  std::vector<Point> points(count);
  for (Point& point : points) {
    point.x = uniform(random, -2.0f, 2.0f);
    point.y = uniform(random, -2.0f, 2.0f);
    const float radius = std::hypot(point.x, point.y);
    point.label = radius > 0.7f && radius < 1.5f ? 1.0f : 0.0f;
  }
  return points;
}

// One parameter of the network with its gradient and state.
struct Parameter {
  explicit Parameter(std::size_t size) : value(size), grad(size), square_avg(size) {}
  std::vector<float> value, grad, square_avg;
};

// Two inputs, a layer of tanh, and the log-odds of a point lying in the ring.
class Network {
 public:
  explicit Network(std::size_t width) : width_(width), in_(2 * width), in_bias_(width), out_(width), out_bias_(1) {
    std::mt19937 random(2);
    for (float& weight : in_.value) weight = uniform(random, -2.0f, 2.0f);
    for (float& bias : in_bias_.value) bias = uniform(random, -2.0f, 2.0f);
    for (float& weight : out_.value) weight = uniform(random, -0.5f, 0.5f);
  }

  std::array<rmsprop::Tensor, 4> tensors(const rmsprop::Update* update) {
    const auto tensor = [update](Parameter& p) {
      return rmsprop::dense_tensor({.param = p.value, .grad = p.grad, .square_avg = p.square_avg}, update);
    };
    return {tensor(in_), tensor(in_bias_), tensor(out_), tensor(out_bias_)};
  }

  // The mean logistic loss of all points; leaves its gradient in the parameters.
  double loss_and_gradients(const std::vector<Point>& points) {
    for (Parameter* p : {&in_, &in_bias_, &out_, &out_bias_}) p->grad.assign(p->grad.size(), 0.0f);
    std::vector<float> hidden(width_);
    double loss = 0.0;
    for (const Point& point : points) {
      float log_odds = out_bias_.value[0];
      for (std::size_t i = 0; i < width_; ++i) {
        hidden[i] = std::tanh(in_.value[2 * i] * point.x + in_.value[2 * i + 1] * point.y + in_bias_.value[i]);
        log_odds += out_.value[i] * hidden[i];
      }
      loss += std::log1p(std::exp(point.label > 0.5f ? -log_odds : log_odds));
      const float error = 1.0f / (1.0f + std::exp(-log_odds)) - point.label;
      add_gradients(point, hidden, error / static_cast<float>(points.size()));
    }
    return loss / static_cast<double>(points.size());
  }

 private:
  void add_gradients(const Point& point, const std::vector<float>& hidden, float error) {
    out_bias_.grad[0] += error;
    for (std::size_t i = 0; i < width_; ++i) {
      out_.grad[i] += error * hidden[i];
      const float through = error * out_.value[i] * (1.0f - hidden[i] * hidden[i]);
      in_bias_.grad[i] += through;
      in_.grad[2 * i] += through * point.x;
      in_.grad[2 * i + 1] += through * point.y;
    }
  }

  std::size_t width_;
  Parameter in_, in_bias_, out_, out_bias_;
};

constexpr std::int64_t steps = 1000;
constexpr std::int64_t steps_between_rows = 100;

// The loss every `steps_between_rows` steps, and after the last.
template <class Hyperparameters>
std::vector<double> train(const Hyperparameters& hyperparameters, const std::vector<Point>& points) {
  rmsprop::check(hyperparameters);
  Network network(24);
  rmsprop::Update update = rmsprop::make_update(hyperparameters, 1);
  const auto tensors = network.tensors(&update);  // they point to it, so it is assigned again for each step
  std::vector<double> losses;
  for (std::int64_t t = 1; t <= steps; ++t) {
    const double loss = network.loss_and_gradients(points);
    if ((t - 1) % steps_between_rows == 0) losses.push_back(loss);
    update = rmsprop::make_update(hyperparameters, t);
    rmsprop::step(tensors);
  }
  losses.push_back(network.loss_and_gradients(points));
  return losses;
}

}  // namespace

int main() {
  const std::vector<Point> points = make_points(500);
  const std::vector<double> adagrad = train(rmsprop::Adagrad{.lr = 0.02}, points);
  const std::vector<double> by_rmsprop = train(rmsprop::RMSprop{.lr = 0.02}, points);
  std::printf("%6s %9s %9s\n", "step", "Adagrad", "RMSprop");
  for (std::size_t row = 0; row < adagrad.size(); ++row) {
    std::printf("%6lld %9.4f %9.4f\n", static_cast<long long>(row) * static_cast<long long>(steps_between_rows),
                adagrad[row], by_rmsprop[row]);
  }
}
