// A work tile: a row tile against one split of the other side. Partial results are stored split by split.
#pragma once

#include "ptx/kernel.h"

namespace infonce {

struct Work {
    uint32_t tile, split;
};

// For kernels with one work tile a block: the grid is (tile, split).
INFONCE_DEVICE Work work_of_block() { return {block_index().x, block_index().y}; }

}  // namespace infonce
