// A piece of a kernel's work: a tile of rows, against a part of the other side. Partial results are kept part
// by part.
#pragma once

#include "ptx/kernel.h"

namespace infonce {

struct Work {
    uint32_t tile, split;
};

// Where every block has one piece: blocks are (tile, part).
INFONCE_DEVICE Work work_of_block() { return {block_index().x, block_index().y}; }

}  // namespace infonce
