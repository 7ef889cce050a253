// Runs shares of work on the threads of the process.
#pragma once

namespace rmsprop {

inline constexpr int cache_line = 64;

// Work that is cut into one share for each thread, and each share into the same number of pieces.
struct SharedWork {
  int shares;
  int pieces_of_a_share;
  void (*run_piece)(const void* context, int piece);  // pieces are numbered share by share
  const void* context;
};

// Runs every piece once, in the IEEE-754 default environment, on separate threads as far as the OpenMP runtime grants
// them and they help. Returns when all are done. A thread takes the pieces of its own share first, so that it gets the
// memory it had before, and then those of others that lag behind.
void run_shares(const SharedWork& work) noexcept;

}  // namespace rmsprop
