#include "thread_policy.hpp"

#include <algorithm>

namespace rmsprop {
namespace {

// What a region would have taken without one of its other threads: what that one did, all the rest would have done.
// That is nothing if they came too late.
double time_without_one(const ThreadPolicy::Region& region) {
  // The calling thread had no CPU while others did everything. They may have taken it: on the same CPU, threads that
  // wait for each other in turns take whole time slices. Seen again and again, it is a loss.
  if (region.own_part == 0.0) return static_cast<double>(region.whole) / 4.0;
  const auto own = static_cast<double>(region.own);
  const double others = region.threads - 1;
  const double of_one = own * (1.0 - region.own_part) / region.own_part / others;
  return own + of_one / others;
}

}  // namespace

ThreadPolicy::Choice ThreadPolicy::choose(int wanted, Nanoseconds now) const {
  if (limit_ == 0) return {wanted, false};
  if (now >= pause_ends_) return {wanted, wanted > limit_ && alone_ / wanted < long_work};
  return {std::min(wanted, limit_), false};
}

void ThreadPolicy::learn(const Region& region, Nanoseconds waking, Nanoseconds now) {
  if (limit_ != 0 && region.threads > limit_) {  // the first after a pause
    limit_ = 0;
    balance_ = 0.0;
    since_pause_ = 0;
  }
  const double without = time_without_one(region);
  const auto gained = static_cast<Nanoseconds>(without) - region.whole;
  since_pause_ += region.whole;
  if (region.own_part > 0.0) alone_ = static_cast<double>(region.own) / region.own_part;
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
