// Products of a warpgroup (wgmma). A thread queues them. The last of the group's 128 threads to wait executes what the
// wait allows, for all of them, after checking that all have queued the same. Products and sums are f32, the summed
// axis in order; hardware sums of e4m3 have fewer bits (ptx/wgmma.h).
#include <algorithm>
#include <cstring>

#include "emulator/block.h"
#include "emulator/multiply.h"

namespace infonce::emulator {
namespace {

constexpr uint32_t ROWS = 64;
constexpr uint32_t STEP_BYTES = 32;  // of a row: as many as one product sums over

// A matrix in shared memory, as its descriptor says (ptx/wgmma.h).
struct Operand {
    uint32_t address, next, eight_rows, element_bytes;
    bool across;

    Operand(uint64_t bits, bool across, ElementType type)
        : address(uint32_t(bits & 0x3fff) << 4),
          next(uint32_t(bits >> 16 & 0x3fff) << 4),
          eight_rows(uint32_t(bits >> 32 & 0x3fff) << 4),
          element_bytes(bytes_of(type)),
          across(across) {}

    // The address of element k of row `row`; `across` only with 2-byte elements. The swizzle XORs bits of the address
    // itself.
    uint32_t at(uint32_t row, uint32_t k) const {
        const uint32_t straight = across ? address + row / 64 * next + row % 64 * 2 + k / 8 * eight_rows + k % 8 * 128
                                         : address + row / 8 * eight_rows + row % 8 * 128 + k * element_bytes;
        return straight ^ ((straight >> 7 & 7) << 4);
    }
    // Visits the 16-byte chunks of `rows` rows from `first` on: address, and row and k of the first element.
    template <class Visit>
    void each_chunk(uint32_t first, uint32_t rows, const Visit& visit) const {
        const uint32_t row_step = across ? 8 : 1, k_step = across ? 1 : 16 / element_bytes;
        for (uint32_t row = first; row < first + rows; row += row_step)
            for (uint32_t k = 0; k < STEP_BYTES / element_bytes; k += k_step) visit(at(row, k), row, k);
    }
};

// Widens an operand's elements: element k of row `row` goes to to[row * row_stride + k * k_stride].
void gather(const Operand& operand, uint32_t rows, ElementType type, const char* shared, float* to, uint32_t row_stride,
            uint32_t k_stride) {
    operand.each_chunk(0, rows, [&](uint32_t address, uint32_t row, uint32_t k) {
        const uint32_t stride = operand.across ? row_stride : k_stride;
        widen(type, shared + (address - SHARED_BASE), 16, to + row * row_stride + k * k_stride, stride);
    });
}

bool swizzled_by_128(uint64_t bits) { return bits >> 62 == 1 && (bits >> 49 & 7) == 0; }

bool same(const Product& a, const Product& b) {
    return a.columns == b.columns && (a.a_registers == nullptr) == (b.a_registers == nullptr) && a.a == b.a && a.b == b.b &&
           a.accumulate == b.accumulate && a.a_across == b.a_across && a.b_across == b.b_across && a.type == b.type &&
           a.site == b.site;
}

}  // namespace

uint32_t Block::warpgroup_of(Site site) {
    if (thread_count % WARPGROUP != 0) fail("a product of a warpgroup in a block that is not whole warpgroups", site);
    return current.thread / WARPGROUP;
}

void Block::fence_products(Site site) {
    warpgroup_of(site);
    start_clocks();
    threads[current.thread].fenced = true;
}

void Block::issue(const Product& product) {
    warpgroup_of(product.site);
    Thread& thread = threads[current.thread];
    if (!thread.fenced) fail("a product with no wgmma_fence since the last wait", product.site);
    if (!swizzled_by_128(product.b) || (!product.a_registers && !swizzled_by_128(product.a)))
        fail("a descriptor of another layout than 128-byte swizzle from a multiple of 1,024 bytes", product.site);
    Queued queued{product, {}, 0, {}};
    // One thread of each warp checks what the warp's 16 rows of the product read.
    if (current.thread % WARP == 0) queued.checked = check_operands(product, current.thread / WARP);
    if (product.a_registers) std::memcpy(queued.a, product.a_registers, sizeof queued.a);
    auto& all = thread.accumulators;
    auto found = std::find_if(all.begin(), all.end(), [&](const Accumulator& one) { return one.d == product.d; });
    if (found == all.end()) {
        Accumulator one;
        one.d = product.d;
        one.values.assign(product.d, product.d + product.columns / 2);
        all.push_back(std::move(one));
        found = all.end() - 1;
        // Until a wait the registers' values are undefined.
        std::memset(product.d, 0xff, product.columns / 2 * sizeof(float));
    } else if (found->values.size() != product.columns / 2) {
        fail("an accumulator of " + std::to_string(found->values.size()) + " elements in a product of " +
                 std::to_string(product.columns) + " columns",
             product.site);
    }
    queued.accumulator = uint32_t(found - all.begin());
    thread.products.open.push_back(queued);
}

void Block::commit_products(Site site) {
    warpgroup_of(site);
    threads[current.thread].products.commit();
}

void Block::wait_products(int pending, Site site) {
    const uint32_t group = warpgroup_of(site);
    Thread& thread = threads[current.thread];
    if (!thread.products.open.empty()) fail("a wait with products that are not committed", site);
    thread.fenced = false;
    if (thread.products.closed.size() <= size_t(pending)) return;
    Warpgroup& all = warpgroups[group];
    if (all.arrived == 0) {
        all.site = site;
        all.pending = pending;
    } else if (all.pending != pending || !(all.site == site)) {
        fail("another wait than the warpgroup's at " + place(all.site), site);
    }
    thread.waits_for = Operation::WARPGROUP;
    thread.site = site;
    if (++all.arrived < WARPGROUP) return next();
    all.arrived = 0;
    const uint32_t queued = uint32_t(thread.products.closed.size()), least = queued - uint32_t(pending);
    uint32_t count = least;
    if (launch->schedule == INFONCE_EARLY) count = queued;
    if (launch->schedule == INFONCE_MIXED) count = least + uint32_t(random() % (uint64_t(pending) + 1));
    for (uint32_t i = 0; i < count; ++i) execute_products(group);
    for (uint32_t i = 0; i < WARPGROUP; ++i) {
        settle_accumulators(threads[group * WARPGROUP + i]);
        if (group * WARPGROUP + i != current.thread) make_ready(group * WARPGROUP + i);
    }
}

// The oldest group of products of a warpgroup.
__attribute__((noinline)) void Block::execute_products(uint32_t group) {
    const uint32_t first = group * WARPGROUP;
    const size_t count = threads[first].products.closed.front().size();
    for (uint32_t i = 1; i < WARPGROUP; ++i)
        if (threads[first + i].products.closed.empty() || threads[first + i].products.closed.front().size() != count)
            fail("thread " + std::to_string(first + i) + " has queued other products than thread " + std::to_string(first),
                 threads[first + i].site);
    std::vector<float> a, b, d;
    for (size_t p = 0; p < count; ++p) {
        const Queued& one = threads[first].products.closed.front()[p];
        const Product& product = one.product;
        const uint32_t columns = product.columns, element_bytes = bytes_of(product.type);
        const uint32_t depth = STEP_BYTES / element_bytes;
        for (uint32_t i = 1; i < WARPGROUP; ++i) {
            const Queued& other = threads[first + i].products.closed.front()[p];
            if (!same(product, other.product) || one.accumulator != other.accumulator)
                fail("thread " + std::to_string(first + i) + " has queued another product than thread " + std::to_string(first),
                     other.product.site);
        }
        // The operands must not have been overwritten.
        for (uint32_t thread = first; thread < first + WARPGROUP; thread += WARP)
            if (has_changed(threads[thread].products.closed.front()[p].checked, thread / WARP))
                check_operands(product, thread / WARP);
        a.resize(ROWS * depth);
        b.resize(depth * columns);
        gather(Operand(product.b, product.b_across, product.type), columns, product.type, arena, b.data(), 1, columns);
        if (!product.a_registers) {
            gather(Operand(product.a, product.a_across, product.type), ROWS, product.type, arena, a.data(), depth, 1);
        } else {
            for (uint32_t i = 0; i < WARPGROUP; ++i) {
                const uint32_t(&own)[4] = threads[first + i].products.closed.front()[p].a;
                const uint32_t row = i / WARP * 16 + i % WARP / 4, k = i % 4 * 2;
                for (uint32_t r = 0; r < 4; ++r)
                    widen(product.type, &own[r], 4, &a[(row + r % 2 * 8) * depth + k + r / 2 * 8], 1);
            }
        }
        d.resize(ROWS * columns);
        for (uint32_t column = 0; column < columns; column += 8)
            for (uint32_t row = 0; row < ROWS; row += 8)
                multiply_8x8(&a[row * depth], depth, &b[column], columns, depth, &d[row * columns + column], columns);
        for (uint32_t i = 0; i < WARPGROUP; ++i) {
            std::vector<float>& values = threads[first + i].accumulators[one.accumulator].values;
            // Four entries of each eight columns: two of a row, two of the eighth row after it.
            const float* sums = &d[(i / WARP * 16 + i % WARP / 4) * columns + i % 4 * 2];
            if (!product.accumulate) std::fill(values.begin(), values.end(), 0.0f);
            for (float* value = values.data(); value < values.data() + values.size(); value += 4, sums += 8) {
                value[0] += sums[0];
                value[1] += sums[1];
                value[2] += sums[8 * columns];
                value[3] += sums[8 * columns + 1];
            }
        }
    }
    for (uint32_t i = 0; i < WARPGROUP; ++i) {
        auto& queue = threads[first + i].products.closed;
        queue.erase(queue.begin());
    }
}

// Gives back the accumulators that no pending product uses.
void Block::settle_accumulators(Thread& thread) {
    std::vector<bool> busy(thread.accumulators.size(), false);
    for (const auto& group : thread.products.closed)
        for (const Queued& queued : group) busy[queued.accumulator] = true;
    for (size_t i = 0; i < busy.size(); ++i) {
        Accumulator& one = thread.accumulators[i];
        if (busy[i] || !one.d) continue;
        std::memcpy(one.d, one.values.data(), one.values.size() * sizeof(float));
        one.d = nullptr;
    }
    // Pending products know an accumulator by its index, so the list is emptied as a whole.
    if (std::find(busy.begin(), busy.end(), true) == busy.end()) thread.accumulators.clear();
}

// Checks the shared memory that a warp's share of a product reads: its 16 rows of a, and all of b.
__attribute__((noinline)) Block::Checked Block::check_operands(const Product& product, uint32_t warp) {
    Checked checked;
    checked.moment = {threads_before + warp * WARP, epoch, warps[warp].epoch};
    checked.time = clocks.time(clock_of(warp * WARP));
    auto check = [&](const Operand& operand, uint32_t which, uint32_t first, uint32_t rows) {
        uint32_t least = MOST_SHARED, end = 0;
        Shadow::Write known;
        operand.each_chunk(first, rows, [&](uint32_t address, uint32_t, uint32_t) {
            const uint32_t word = offset_of(address, 16, 16, product.site) / 4;
            if (!shadow.read_async(word, 4, checked.moment, known)) fail("a product: " + shadow.fault(), product.site);
            least = std::min(least, word);
            end = std::max(end, word + 4);
        });
        checked.first[which] = least;
        checked.end[which] = end;
        checked.changes += shadow.changes(least, end);
    };
    if (!product.a_registers) check(Operand(product.a, product.a_across, product.type), 0, warp % 4 * 16, 16);
    check(Operand(product.b, product.b_across, product.type), 1, 0, product.columns);
    return checked;
}

// Whether another check could differ from this one of the warp.
bool Block::has_changed(const Checked& checked, uint32_t warp) const {
    uint64_t changes = 0;
    for (uint32_t which = 0; which < 2; ++which) changes += shadow.changes(checked.first[which], checked.end[which]);
    return changes != checked.changes || checked.moment.block_epoch != epoch ||
           checked.moment.warp_epoch != warps[warp].epoch || checked.time != clocks.time(clock_of(warp * WARP));
}

}  // namespace infonce::emulator
