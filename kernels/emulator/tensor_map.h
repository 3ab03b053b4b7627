// The emulator's form of a CUtensorMap: 128 bytes that Rust fills (`TensorMapWords` in src/emulator/device.rs) and a
// kernel passes on.
#pragma once

#include <cstdint>

namespace infonce::emulator {

constexpr uint64_t TENSOR_MAP = 0x696e666f6e636570;  // in the first word, so that other maps are refused

struct TensorMapWords {
    uint64_t mark;
    char* data;
    uint64_t stride;         // bytes from row to row
    uint32_t rows, row_bytes;
    uint32_t box_rows, element_bytes;
};

constexpr uint32_t BOX_ROW = 128;  // bytes

// A box of a matrix: 128 bytes of some rows, from a byte of a row on. Rows 0: none.
struct Box {
    char* data;
    uint64_t stride;
    uint32_t rows, row_bytes;  // of the matrix
    uint32_t first_row, first_byte, box_rows;

    // Of row `row` of the box: where it lies, and how many of its bytes lie in the matrix.
    char* at(uint32_t row) const { return data + uint64_t(first_row + row) * stride + first_byte; }
    uint32_t inside(uint32_t row) const {
        if (first_row + row >= rows || first_byte >= row_bytes) return 0;
        return row_bytes - first_byte < BOX_ROW ? row_bytes - first_byte : BOX_ROW;
    }
};

}  // namespace infonce::emulator
