// The emulator's form of a CUtensorMap. Rust fills it (`TensorMapWords` in src/emulator/device.rs); a kernel passes it on.
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

// A box of a matrix: 128 bytes, from `first_byte` on, of `box_rows` rows.
struct Box {
    char* data;
    uint64_t stride;
    uint32_t rows, row_bytes;  // of the matrix
    uint32_t first_row, first_byte, box_rows;

    // Row `row` of the box: its address, and how many of its bytes lie in the matrix.
    char* at(uint32_t row) const { return data + uint64_t(first_row + row) * stride + first_byte; }
    uint32_t inside(uint32_t row) const {
        if (first_row + row >= rows || first_byte >= row_bytes) return 0;
        return row_bytes - first_byte < BOX_ROW ? row_bytes - first_byte : BOX_ROW;
    }
};

}  // namespace infonce::emulator
