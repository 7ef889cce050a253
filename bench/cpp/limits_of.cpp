#include "limits.hpp"

#if defined(RMSPROP_HAS_LIMITS_baseline)
extern const LimitsOfInstructionSet limits_baseline;
#endif
#if defined(RMSPROP_HAS_LIMITS_x86_64_v3)
extern const LimitsOfInstructionSet limits_x86_64_v3;
#endif
#if defined(RMSPROP_HAS_LIMITS_x86_64_v4)
extern const LimitsOfInstructionSet limits_x86_64_v4;
#endif

const LimitsOfInstructionSet* limits_of(std::string_view instruction_set) {
#if defined(RMSPROP_HAS_LIMITS_x86_64_v4)
  if (instruction_set == "x86-64-v4") return &limits_x86_64_v4;
#endif
#if defined(RMSPROP_HAS_LIMITS_x86_64_v3)
  if (instruction_set == "x86-64-v3") return &limits_x86_64_v3;
#endif
#if defined(RMSPROP_HAS_LIMITS_baseline)
  if (instruction_set == "baseline") return &limits_baseline;
#endif
  return nullptr;
}
