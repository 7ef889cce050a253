#include "thread_policy.hpp"

#include <algorithm>

namespace rmsprop {
ThreadPolicy::Choice ThreadPolicy::choose(int wanted, Nanoseconds now) const {
  if (limit_ == 0) return {wanted, false};
  if (now >= pause_ends_) return {wanted, wanted > limit_};
  return {std::min(wanted, limit_), false};
}

void ThreadPolicy::learn(const Region& region, Nanoseconds waking, Nanoseconds now) {
  if (waking > 0) {
    limit_ = 0;
    balance_ = 0.0;
    since_pause_ = 0;
  }
  // What it would have taken without one of the other threads: what that one did, all the rest would have done. That is
  // nothing if they came too late.
  const auto own = static_cast<double>(region.own);
  const double others = region.threads - 1;
  const double of_one = own * (1.0 - region.own_part) / region.own_part / others;
  const double without = own + of_one / others;
  const auto gained = static_cast<Nanoseconds>(without) - region.whole;
  since_pause_ += region.whole;
  // In parts of its own time, since a region in which the calling thread lost its CPU seems to have gained much.
  constexpr double fading = 1.0 / 16.0;
  balance_ += static_cast<double>(gained) / without - fading * balance_;
  if (balance_ >= 0.0) return;
  // Soon, if regions went well for less than some times the last pause.
  constexpr int times = 4;
  price_ = since_pause_ < times * pause_ ? std::min<std::int64_t>(2 * price_, longest_pause) : least_price;
  pause_ = static_cast<Nanoseconds>(
      std::min(static_cast<double>(price_) * static_cast<double>(waking - gained), static_cast<double>(longest_pause)));
  pause_ends_ = now + pause_;
  limit_ = region.arrived < region.threads ? region.arrived : 1;  // those that came in time may go on
  balance_ = 0.0;
  since_pause_ = 0;
}

}  // namespace rmsprop
