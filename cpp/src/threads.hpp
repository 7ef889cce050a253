// Runs shares of work on the threads of the process.
#pragma once

namespace rmsprop {

// Calls body(context, share) once for every share in [0, shares), on separate threads as far as the OpenMP runtime
// grants them, in the IEEE-754 default environment. Returns when all are done.
void run_shares(int shares, void (*body)(const void* context, int share), const void* context) noexcept;

}  // namespace rmsprop
