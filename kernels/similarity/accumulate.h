// The second product of the portable fused gradient: sums += weights · streamed tile. The weights are still in the
// registers of the first product; the summed axis is the tile's rows.
#pragma once

#include "similarity/gradient.h"

namespace infonce {

// 16-bit types: weights of 16 columns are, as they lie, the left operand of one mma, because two n8 results have the
// layout of a k16 left operand.
template <class T, int BYTES = int(sizeof(T))>
struct Accumulate {
    template <int BLOCKS, int SUM_BLOCKS, int STREAMED_SLAB>
    INFONCE_DEVICE static void run(const float (&weights)[BLOCKS][4], SharedAddress stage, float (&sums)[SUM_BLOCKS][4]) {
        const int lane = thread_index() % 32;
        INFONCE_UNROLL
        for (int block = 0; block < BLOCKS; block += 2) {
            uint32_t a[4];
            INFONCE_UNROLL
            for (int i = 0; i < 4; ++i)
                a[i] = Element<T>::pack(weights[block + i / 2][i % 2 * 2], weights[block + i / 2][i % 2 * 2 + 1]);
            INFONCE_UNROLL
            for (int d = 0; d < SUM_BLOCKS; d += 2) {
                const int row = block * 8 + lane % 16;
                const SharedAddress slab = stage + d / 8 * STREAMED_SLAB;
                uint32_t b[4];
                load_matrices_transposed(b, chunk_address(slab, row, d % 8 + lane / 16));
                const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
                Element<T>::multiply(sums[d], a, low);
                Element<T>::multiply(sums[d + 1], a, high);
            }
        }
    }
};

// tf32 steps hold 8 elements: a thread has columns 2t and 2t + 1 of the weights where the left operand takes t and t +
// 4. The order within the summed axis does not matter if the rows of the right operand follow it: they are loaded one
// by one.
template <class T>
struct Accumulate<T, 4> {
    template <int BLOCKS, int SUM_BLOCKS, int STREAMED_SLAB>
    INFONCE_DEVICE static void run(const float (&weights)[BLOCKS][4], SharedAddress stage, float (&sums)[SUM_BLOCKS][4]) {
        const int lane = thread_index() % 32;
        INFONCE_UNROLL
        for (int block = 0; block < BLOCKS; ++block) {
            uint32_t a[4];
            a[0] = float_bits(weights[block][0]);
            a[1] = float_bits(weights[block][2]);
            a[2] = float_bits(weights[block][1]);
            a[3] = float_bits(weights[block][3]);
            const int row = block * 8 + lane % 4 * 2;
            INFONCE_UNROLL
            for (int d = 0; d < SUM_BLOCKS; ++d) {
                // A slab's row holds 32 elements, four blocks of eight.
                const SharedAddress slab = stage + d / 4 * STREAMED_SLAB;
                const int element = d % 4 * 8 + lane / 4;
                uint32_t b[2];
                INFONCE_UNROLL
                for (int i = 0; i < 2; ++i)
                    b[i] = load_shared<uint32_t>(chunk_address(slab, row + i, element / 4) + element % 4 * 4);
                Element<T>::multiply(sums[d], a, b);
            }
        }
    }
};

template <class Kernel, Softmax SOFTMAX>
INFONCE_DEVICE void Gradient<Kernel, SOFTMAX>::accumulate(const float (&weights)[BLOCKS][4], SharedAddress stage) {
    Accumulate<T>::template run<BLOCKS, SUM_BLOCKS, STREAMED_SLAB>(weights, stage, sums);
}

}  // namespace infonce
