// The state of every word of shared memory: who wrote and read it since the last barrier, and whether an asynchronous
// copy to it is in flight.
//
// An access is ordered after an earlier one of another thread if a barrier of the block, or of their common warp, lies
// between them, or if mbarriers carry the knowledge of it (emulator/clocks.h). Two unordered accesses, one of them a
// write, are a race, in whatever order they run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "emulator/clocks.h"
#include "emulator/interface.h"

namespace infonce::emulator {

// A point in a thread's time: how many barriers of its block and of its warp it has passed. Threads of a cluster are
// numbered through; epochs start at 1.
struct Moment {
    uint32_t thread;
    uint32_t block_epoch;
    uint32_t warp_epoch;

    // A thread of another block of the cluster: barriers of the block whose memory it is do not count.
    static Moment elsewhere(uint32_t thread) { return {thread, 0, 0}; }
    bool is_elsewhere() const { return block_epoch == 0; }
    // Whether a thread at `later` comes after this by barriers of the block and the warp alone.
    bool before(const Moment& later) const {
        return thread == later.thread || block_epoch < later.block_epoch ||
               (thread / 32 == later.thread / 32 && warp_epoch < later.warp_epoch);
    }
};

std::string place(Site site);
bool operator==(Site a, Site b);

class Shadow {
    // LEAVING: written, and the source of stores in flight.
    enum State : uint8_t { UNWRITTEN, WRITTEN, IN_FLIGHT, BARRIER, LEAVING };

  public:
    // The last write that a read was found to come after: neighbours are mostly written at once. With clocks on its time,
    // and how many fences its thread had made.
    struct Write {
        uint32_t epoch = 0, warp_epoch = 0, time = 0, fences = 0;
        uint16_t writer = 0;
        State state = UNWRITTEN;
    };
    // Forgets everything; `words` words, none written. `last_epoch` is the last one of the block before.
    void reset(uint32_t words, uint32_t last_epoch);
    // Prefetches a word's state into the cache.
    void prefetch(uint32_t word) const {
        if (word < words.size()) __builtin_prefetch(&words[word]);
    }
    // Each returns false if the access is wrong; fault() says why.
    bool read(uint32_t word, uint32_t count, const Moment& now) {
        Write known;
        return read_words<false>(word, count, now, known);
    }
    bool write(uint32_t word, uint32_t count, const Moment& now, Site site) {
        return write_as(WRITTEN, word, count, now, site);
    }
    // A read by an asynchronous operation, which sees threads' stores only behind their fences. `known` is kept by the
    // caller from read to read of one moment.
    bool read_async(uint32_t word, uint32_t count, const Moment& now, Write& known) {
        return read_words<true>(word, count, now, known);
    }
    // The thread fences its stores for such reads.
    void fence(const Moment& now);
    // A box store from these words starts: it reads them asynchronously, and until it ends nobody may write them. It ends
    // when its issuer has waited.
    bool begin_store(uint32_t word, uint32_t count, const Moment& now, Site site);
    void end_store(uint32_t word, uint32_t count, const Moment& now);
    // A copy to these words starts: until it ends nobody may access them. It ends when its issuer has waited.
    bool begin_copy(uint32_t word, uint32_t count, const Moment& now, Site site) {
        return write_as(IN_FLIGHT, word, count, now, site);
    }
    void end_copy(uint32_t word, uint32_t count, const Moment& now);
    const std::string& fault() const { return wrong; }

    // From here on clocks order accesses too. The block's warps and mbarriers start at these numbers of the cluster's.
    void start_clocks(const Clocks& clocks, uint32_t first_warp, uint32_t warps, uint32_t first_barrier, const Moment& now);
    // Takes words for an mbarrier: nothing else may touch them.
    bool claim(uint32_t word, uint32_t count, const Moment& now, Site site) {
        return write_as(BARRIER, word, count, now, site);
    }
    // With clocks on: grows whenever one of these words, or one near them, changes other than by being read.
    uint64_t changes(uint32_t word, uint32_t end) const {
        uint64_t sum = 0;
        for (uint32_t region = word / REGION; region * REGION < end; ++region) sum += changes_of_region[region];
        return sum;
    }
    // A bulk copy of mbarrier `barrier` completes, at `time` of its clock.
    void end_bulk_copy(uint32_t word, uint32_t count, uint32_t barrier, uint32_t time);

  private:
    static constexpr uint16_t NOBODY = 0xffff, MANY = 0xfffe;
    // Writers from this value on are bulk copies, by their mbarrier.
    static constexpr uint16_t BULK = 0x8000;
    // The epoch of a bulk copy's write: no barrier of the block alone orders it.
    static constexpr uint32_t NEVER = 0xffffffff;
    struct Word {
        uint32_t write_epoch, write_warp_epoch, read_epoch, read_warp_epoch;
        uint16_t writer, reader;  // of those epochs
        uint16_t reading_warp;    // NOBODY: none; MANY: more than one
        State state;
    };
    // A warp's last read of a word. It counts if it is of the word's read epoch, in the present block.
    struct Read {
        uint32_t time, warp_epoch, reader, stamp;
    };
    struct Fence {
        Moment moment;
        uint32_t time;  // of its warp
    };
    // The stores in flight from a word, and the latest of them.
    struct Leaving {
        uint32_t stores, thread;
        Site site;
    };

    // As many words as lie in eight rows of a tile.
    static constexpr uint32_t REGION = 256;
    void note_change(uint32_t word, uint32_t count) {
        for (uint32_t region = word / REGION; region * REGION < word + count; ++region) ++changes_of_region[region];
    }

    Read& read_of(uint32_t warp, uint32_t word) { return reads[size_t(warp - first_warp) * words.size() + word]; }
    uint32_t stamp_of(uint32_t epoch) const { return stamps + epoch; }
    std::vector<Fence>& fences_of(uint32_t thread) { return fences[thread - 32 * first_warp]; }
    template <bool ASYNC>
    bool read_words(uint32_t index, uint32_t count, const Moment& now, Write& known);
    bool write_as(State state, uint32_t index, uint32_t count, const Moment& now, Site site);
    // For a word that a thread has written.
    bool is_fenced(const Word& word, uint32_t index, const Moment& now) const;
    bool after_write(const Word& word, uint32_t index, const Moment& now) const;
    bool after_reads(const Word& word, uint32_t index, const Moment& now);
    static void note_read(Word& word, const Moment& now);
    void note_read_of_warp(Read& read, const Moment& now, uint32_t time) const;
    bool refuse(uint32_t index, bool writes, const Moment& now);
    bool refuse_unfenced(uint32_t index);
    std::string writer_of(uint32_t index) const;
    std::string name_of(uint32_t thread) const;

    std::vector<Word> words;
    std::vector<Site> write_sites;
    std::string wrong;
    // With clocks on: the time of each word's last write, and each warp's reads, word after word.
    const Clocks* clocks = nullptr;
    uint32_t first_warp = 0, warps = 0, first_barrier = 0;
    std::vector<uint32_t> write_times;
    std::vector<Read> reads;
    uint32_t stamps = 0;  // the stamp of epoch 0 of the present block: reads of earlier blocks have earlier ones
    // The fences of each thread; how many its writer had made when it wrote a word; the stores in flight from it.
    std::vector<std::vector<Fence>> fences;
    std::vector<uint32_t> write_fences;
    std::vector<Leaving> leaving;
    std::vector<uint32_t> changes_of_region;  // each of REGION words
};

}  // namespace infonce::emulator
