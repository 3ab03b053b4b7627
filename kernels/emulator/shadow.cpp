// The rules of shared memory: which access is ordered after which, and the reports of those that are not.
#include "emulator/shadow.h"

#include <algorithm>
#include <cstring>

namespace infonce::emulator {

bool operator==(Site a, Site b) { return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0); }

std::string place(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

void Shadow::reset(uint32_t count, uint32_t last_epoch) {
    stamps += last_epoch;
    words.assign(count, Word{0, 0, 0, 0, NOBODY, NOBODY, NOBODY, UNWRITTEN});
    write_sites.resize(std::max<size_t>(write_sites.size(), count));
    clocks = nullptr;
    first_warp = warps = first_barrier = 0;
}

void Shadow::start_clocks(const Clocks& on, uint32_t own_warp, uint32_t own_warps, uint32_t own_barrier, const Moment& now) {
    clocks = &on;
    first_warp = own_warp;
    warps = own_warps;
    first_barrier = own_barrier;
    // Earlier events have the time at which every warp starts.
    write_times.assign(words.size(), 1);
    if (reads.size() < words.size() * warps) reads.resize(words.size() * warps);
    fences.assign(size_t(warps) * 32, {});
    write_fences.assign(words.size(), 0);
    leaving.clear();
    changes_of_region.assign(words.size() / REGION + 1, 0);
    for (size_t i = 0; i < words.size(); ++i) {
        const Word& word = words[i];
        if (word.read_epoch != now.block_epoch || word.reading_warp == NOBODY) continue;
        for (uint32_t warp = first_warp; warp < first_warp + warps; ++warp)
            if (word.reading_warp == MANY || word.reading_warp == warp)
                read_of(warp, uint32_t(i)) = Read{1, word.read_warp_epoch, word.reader, stamp_of(word.read_epoch)};
    }
}

bool Shadow::after_write(const Word& word, uint32_t index, const Moment& now) const {
    if (Moment{word.writer, word.write_epoch, word.write_warp_epoch}.before(now)) return true;
    if (!clocks) return false;
    const uint32_t entry = word.writer >= BULK ? clocks->copies_of(first_barrier + word.writer - BULK) : word.writer / 32;
    return clocks->has_seen(now.thread / 32, entry, write_times[index]);
}

bool Shadow::after_reads(const Word& word, uint32_t index, const Moment& now) {
    if (word.reader == NOBODY || word.reader == now.thread) return true;
    if (word.read_epoch != now.block_epoch && !now.is_elsewhere()) return true;
    const uint32_t warp = now.thread / 32;
    if (word.reading_warp == warp && word.read_warp_epoch < now.warp_epoch) return true;
    if (!clocks) return false;
    for (uint32_t other = first_warp; other < first_warp + warps; ++other) {
        const Read& read = read_of(other, index);
        if (read.stamp != stamp_of(word.read_epoch) || clocks->has_seen(warp, other, read.time)) continue;
        if (other == warp && (read.reader == now.thread || read.warp_epoch < now.warp_epoch)) continue;
        return false;
    }
    return true;
}

inline void Shadow::note_read(Word& word, const Moment& now) {
    const auto thread = uint16_t(now.thread), warp = uint16_t(now.thread / 32);
    if (word.read_epoch != now.block_epoch) {
        word.read_epoch = now.block_epoch;
        word.reader = thread;
        word.reading_warp = warp;
    } else if (word.reading_warp != warp) {
        word.reader = word.reading_warp = MANY;
    } else if (word.reader != thread) {
        // Reads of an earlier warp epoch are ordered before every thread of the reading warp.
        word.reader = word.read_warp_epoch < now.warp_epoch ? thread : MANY;
    }
    word.read_warp_epoch = now.warp_epoch;
}

inline void Shadow::note_read_of_warp(Read& read, const Moment& now, uint32_t time) const {
    const uint32_t stamp = stamp_of(now.block_epoch);
    const bool alone = read.stamp != stamp || read.warp_epoch < now.warp_epoch || read.reader == now.thread;
    read.time = time;
    read.warp_epoch = now.warp_epoch;
    read.reader = alone ? now.thread : uint32_t(MANY);
    read.stamp = stamp;
}

template <bool ASYNC>
bool Shadow::read_words(uint32_t index, uint32_t count, const Moment& now, Write& known) {
    const uint32_t warp = now.thread / 32, time = clocks ? clocks->time(warp) : 0;
    Read* const of_warp = clocks ? &read_of(warp, 0) : nullptr;
    for (const uint32_t end = index + count; index < end; ++index) {
        Word& word = words[index];
        const uint32_t written = clocks ? write_times[index] : 0, fences = clocks ? write_fences[index] : 0;
        const bool is_known = known.state == word.state && known.writer == word.writer && known.epoch == word.write_epoch &&
                              known.warp_epoch == word.write_warp_epoch && known.time == written && known.fences == fences;
        if (!is_known) {
            // Most reads are of words written before the last barrier of the block, by many warps.
            const bool settled = word.state == WRITTEN && word.write_epoch < now.block_epoch;
            const bool is_there = word.state == WRITTEN || word.state == LEAVING;
            if (!settled && (!is_there || !after_write(word, index, now))) return refuse(index, false, now);
            if (ASYNC && word.writer < BULK && !is_fenced(word, index, now)) return refuse_unfenced(index);
            known = {word.write_epoch, word.write_warp_epoch, written, fences, word.writer, word.state};
        }
        if (word.read_epoch != now.block_epoch || word.reading_warp != MANY) note_read(word, now);
        if (of_warp) note_read_of_warp(of_warp[index], now, time);
    }
    return true;
}

template bool Shadow::read_words<false>(uint32_t, uint32_t, const Moment&, Write&);
template bool Shadow::read_words<true>(uint32_t, uint32_t, const Moment&, Write&);

bool Shadow::write_as(State state, uint32_t index, uint32_t count, const Moment& now, Site site) {
    if (clocks) note_change(index, count);
    for (; count > 0; ++index, --count) {
        Word& word = words[index];
        if (word.state > WRITTEN || (word.state == WRITTEN && !after_write(word, index, now)) ||
            !after_reads(word, index, now))
            return refuse(index, true, now);
        word.write_epoch = now.block_epoch;
        word.write_warp_epoch = now.warp_epoch;
        word.writer = uint16_t(now.thread);
        word.state = state;
        write_sites[index] = site;
        if (!clocks) continue;
        write_times[index] = clocks->time(now.thread / 32);
        if (!now.is_elsewhere()) write_fences[index] = uint32_t(fences_of(now.thread).size());
    }
    return true;
}

// Whether the writer has fenced since, and the reader knows of that fence.
bool Shadow::is_fenced(const Word& word, uint32_t index, const Moment& now) const {
    const std::vector<Fence>& of_writer = fences[word.writer - 32 * first_warp];
    if (of_writer.size() == write_fences[index]) return false;
    const Fence& fence = of_writer[write_fences[index]];
    return fence.moment.before(now) || clocks->has_seen(now.thread / 32, word.writer / 32, fence.time);
}

void Shadow::fence(const Moment& now) { fences_of(now.thread).push_back({now, clocks->time(now.thread / 32)}); }

bool Shadow::begin_store(uint32_t index, uint32_t count, const Moment& now, Site site) {
    Write known;
    if (!read_async(index, count, now, known)) return false;
    note_change(index, count);
    if (leaving.empty()) leaving.assign(words.size(), Leaving{0, 0, {}});
    for (uint32_t i = index; i < index + count; ++i) {
        words[i].state = LEAVING;
        leaving[i] = {leaving[i].stores + 1, now.thread, site};
    }
    return true;
}

void Shadow::end_store(uint32_t index, uint32_t count, const Moment& now) {
    note_change(index, count);
    for (; count > 0; ++index, --count) {
        if (--leaving[index].stores == 0) words[index].state = WRITTEN;
        // It has read until now.
        note_read(words[index], now);
        note_read_of_warp(read_of(now.thread / 32, index), now, clocks->time(now.thread / 32));
    }
}

void Shadow::end_copy(uint32_t index, uint32_t count, const Moment& now) {
    if (clocks) note_change(index, count);
    for (; count > 0; ++index, --count) {
        Word& word = words[index];
        // For others it is written now, not when it was issued.
        word.write_epoch = now.block_epoch;
        word.write_warp_epoch = now.warp_epoch;
        word.state = WRITTEN;
        if (!clocks) continue;
        write_times[index] = clocks->time(now.thread / 32);
        write_fences[index] = uint32_t(fences_of(now.thread).size());
    }
}

void Shadow::end_bulk_copy(uint32_t index, uint32_t count, uint32_t barrier, uint32_t time) {
    note_change(index, count);
    for (; count > 0; ++index, --count) {
        Word& word = words[index];
        word.write_epoch = word.write_warp_epoch = NEVER;
        word.writer = uint16_t(BULK + barrier);
        word.state = WRITTEN;
        write_times[index] = time;
    }
}

// ---- Reports

std::string Shadow::name_of(uint32_t thread) const {
    if (!clocks || (thread / 32 >= first_warp && thread / 32 < first_warp + warps))
        return "thread " + std::to_string(thread - 32 * first_warp);
    return "thread " + std::to_string(thread % (32 * warps)) + " of block " + std::to_string(thread / (32 * warps)) + " of the cluster";
}

std::string Shadow::writer_of(uint32_t index) const {
    const Word& word = words[index];
    if (word.writer >= BULK) return "the bulk copy issued at " + place(write_sites[index]);
    return name_of(word.writer) + " wrote it at " + place(write_sites[index]);
}

bool Shadow::refuse(uint32_t index, bool writes, const Moment& now) {
    const Word& word = words[index];
    auto pending = [&](uint32_t thread, Site site) {
        return ", issued by " + name_of(thread) + " at " + place(site) + ", has not been waited for";
    };
    wrong = "shared memory at byte " + std::to_string(4 * index) + (writes ? " is written " : " is read ");
    if (word.state == BARRIER) {
        wrong += "but holds an mbarrier, initialised at " + place(write_sites[index]);
    } else if (word.state == IN_FLIGHT) {
        wrong += "while a copy to it" + pending(word.writer, write_sites[index]);
    } else if (writes && word.state == LEAVING) {
        wrong += "while a store from it" + pending(leaving[index].thread, leaving[index].site);
    } else if (writes && (word.state == UNWRITTEN || after_write(word, index, now))) {
        wrong += "with no barrier after " + (word.reader == MANY ? "other threads" : name_of(word.reader)) + " read it";
    } else if (word.state == UNWRITTEN) {
        wrong += "but has never been written";
    } else {
        wrong += (word.writer >= BULK ? "with no wait after " : "with no barrier after ") + writer_of(index);
    }
    return false;
}

bool Shadow::refuse_unfenced(uint32_t index) {
    wrong = "shared memory at byte " + std::to_string(4 * index) +
            " is read by an asynchronous operation with no fence_async_proxy after " + writer_of(index);
    return false;
}

}  // namespace infonce::emulator
