// Box stores from shared memory (cp.async.bulk.tensor to global memory), and the fence before them. A store reads its
// source at once or as late as a wait allows; then it writes the matrix, at once or at the block's end. Meanwhile the
// matrix's bytes count as unwritten.
#include <cstring>

#include "emulator/block.h"

namespace infonce::emulator {

void Block::fence_async_proxy() {
    start_clocks();
    shadow.fence(now());
}

void Block::store_box(const Box& box, uint32_t from, Site site) {
    start_clocks();
    check_waited(site);
    const uint32_t bytes = box.box_rows * BOX_ROW;
    if (!shadow.begin_store(offset_of(from, bytes, 1024, site) / 4, bytes / 4, now(), site)) fail("a store: " + shadow.fault(), site);
    for (uint32_t row = 0; row < box.box_rows; ++row) {
        const uint32_t inside = box.inside(row);
        if (inside == 0) continue;
        std::memset(flags_of(box.at(row), inside, true, site), 0, inside);
        std::memset(box.at(row), 0xff, inside);
    }
    BoxStore store{from, box, {}, false, site};
    if (completes_at_once()) read_source(store);
    if (!store.read.empty() && completes_at_once()) write(store);
    threads[current.thread].site = site;
    threads[current.thread].stores.open.push_back(std::move(store));
}

void Block::read_source(BoxStore& store) {
    if (!store.read.empty()) return;
    store.read.resize(store.box.box_rows * BOX_ROW);
    for (uint32_t row = 0; row < store.box.box_rows; ++row) {
        const uint32_t address = store.from + row * BOX_ROW, swizzle = address >> 7 & 7;
        for (uint32_t chunk = 0; chunk < BOX_ROW / 16; ++chunk)
            std::memcpy(&store.read[row * BOX_ROW + chunk * 16], arena + (address - SHARED_BASE) + (chunk ^ swizzle) * 16, 16);
    }
}

void Block::write(BoxStore& store) {
    if (store.written) return;
    store.written = true;
    for (uint32_t row = 0; row < store.box.box_rows; ++row) {
        const uint32_t inside = store.box.inside(row);
        if (inside == 0) continue;
        const char* from = &store.read[row * BOX_ROW];
        char* to = store.box.at(row);
        std::memset(flags_of(to, inside, true, store.site), 1, inside);
        std::memcpy(to, from, inside);
    }
}

void Block::wait_stores_read(int pending) {
    threads[current.thread].stores.wait(pending, [&](BoxStore& store) {
        read_source(store);
        shadow.end_store((store.from - SHARED_BASE) / 4, store.box.box_rows * BOX_ROW / 4, now());
        left_stores.push_back(std::move(store));
    });
}

void Block::write_left_stores() {
    for (BoxStore& store : left_stores) write(store);
    left_stores.clear();
}

}  // namespace infonce::emulator
