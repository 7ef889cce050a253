// How often the program has allocated memory so far, the engine included: this program's operator new counts.
#pragma once

#include <cstdint>

std::int64_t allocation_count();
