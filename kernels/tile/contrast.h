// positive(i), the candidate that is anchor i's positive; excluded(i), the candidate that it excludes; the scale s.
#pragma once

#include "ptx/global.h"
#include "ptx/kernel.h"
#include "ptx/math.h"

namespace infonce {

enum PositiveRule : uint32_t {
    POSITIVE_NONE = 0,      // no candidate: a key of the anchor's own (MoCo)
    POSITIVE_PAIRED = 1,    // (i + N/2) mod N (NT-Xent)
    POSITIVE_DIAGONAL = 2,  // i
    POSITIVE_INDEX = 3,     // index[i]
};

struct ContrastView {
    const uint32_t* index;  // POSITIVE_INDEX: a candidate for each anchor; `candidates` or more: none
    uint32_t anchors;
    uint32_t candidates;
    uint32_t rule;
    uint32_t excludes_self;
    const float* device_scale;  // s, if it lives on the device; else null
    float scale;                // s otherwise

    // The positive of anchor i < anchors; at least `candidates` if it has none.
    INFONCE_DEVICE uint32_t positive(uint32_t i) const {
        switch (rule) {
            case POSITIVE_PAIRED: return i < anchors / 2 ? i + anchors / 2 : i - anchors / 2;
            case POSITIVE_DIAGONAL: return i;
            case POSITIVE_INDEX: return load_global(index + i);
            default: return 0xffffffffu;
        }
    }
    // The candidate that anchor i excludes; 0xffffffff if it excludes none.
    INFONCE_DEVICE uint32_t excluded(uint32_t i) const { return excludes_self ? i : 0xffffffffu; }
    INFONCE_DEVICE float scale_value() const { return device_scale ? load_global(device_scale) : scale; }
    // s·log2(e): kernels compute logits in base 2.
    INFONCE_DEVICE float scale2() const { return scale_value() * LOG2_E; }
};

}  // namespace infonce
