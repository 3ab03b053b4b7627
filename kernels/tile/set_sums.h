// Sums of the logits of a row's positives and negatives, and how many there are, for rules of sets.
#pragma once

#include "ptx/kernel.h"
#include "ptx/shuffle.h"

namespace infonce {

// Of logits divided by s.
struct alignas(16) SetSums {
    float positives_sum, positives, negatives_sum, negatives;
};

INFONCE_DEVICE SetSums add(const SetSums& a, const SetSums& b) {
    return {a.positives_sum + b.positives_sum, a.positives + b.positives, a.negatives_sum + b.negatives_sum,
            a.negatives + b.negatives};
}

// Adds those of the thread whose lane differs in the bit `mask`. Both get the same bits.
INFONCE_DEVICE SetSums add_across(const SetSums& own, int mask) {
    const SetSums other = {shuffle_xor(own.positives_sum, mask), shuffle_xor(own.positives, mask),
                           shuffle_xor(own.negatives_sum, mask), shuffle_xor(own.negatives, mask)};
    return add(own, other);
}

}  // namespace infonce
