#include "host/shadow.h"

#include <cstring>

namespace infonce::host {
namespace {

std::string place(Site site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string at(uint32_t word) { return "shared memory at byte " + std::to_string(4 * word); }

}  // namespace

void Shadow::reset(uint32_t count) {
    Word empty;
    std::memset(&empty, 0, sizeof empty);
    empty.writer = empty.reader = empty.reading_warp = NOBODY;
    words.assign(count, empty);
}

std::string Shadow::read(uint32_t index, uint32_t count, const Moment& now, Site) {
    for (; count > 0; ++index, --count) {
        Word& word = words[index];
        if (word.in_flight)
            return at(index) + " is read while a copy to it, issued by thread " + std::to_string(word.writer) + " at " +
                   place(word.write_site) + ", has not been waited for";
        if (!word.written) return at(index) + " is read but has never been written";
        if (word.write_epoch == now.block_epoch && word.writer != now.thread) {
            const bool ordered = word.writer / 32 == now.thread / 32 && word.write_warp_epoch < now.warp_epoch;
            if (!ordered)
                return at(index) + " is read with no barrier after thread " + std::to_string(word.writer) +
                       " wrote it at " + place(word.write_site);
        }
        const uint16_t warp = uint16_t(now.thread / 32);
        if (word.read_epoch != now.block_epoch) {
            word.read_epoch = now.block_epoch;
            word.reader = uint16_t(now.thread);
            word.reading_warp = warp;
        } else {
            if (word.reader != now.thread) word.reader = MANY;
            if (word.reading_warp != warp) word.reading_warp = MANY;
        }
        word.read_warp_epoch = now.warp_epoch;
    }
    return {};
}

std::string Shadow::check_write(const Word& word, uint32_t index, const Moment& now) const {
    if (word.in_flight)
        return at(index) + " is written while a copy to it, issued by thread " + std::to_string(word.writer) + " at " +
               place(word.write_site) + ", has not been waited for";
    const uint16_t warp = uint16_t(now.thread / 32);
    if (word.written && word.write_epoch == now.block_epoch && word.writer != now.thread) {
        const bool ordered = word.writer / 32 == warp && word.write_warp_epoch < now.warp_epoch;
        if (!ordered)
            return at(index) + " is written with no barrier after thread " + std::to_string(word.writer) +
                   " wrote it at " + place(word.write_site);
    }
    if (word.read_epoch == now.block_epoch && word.reader != NOBODY && word.reader != now.thread) {
        const bool ordered = word.reading_warp == warp && word.read_warp_epoch < now.warp_epoch;
        if (!ordered)
            return at(index) + " is written with no barrier after " +
                   (word.reader == MANY ? std::string("other threads") : "thread " + std::to_string(word.reader)) +
                   " read it";
    }
    return {};
}

std::string Shadow::write(uint32_t index, uint32_t count, const Moment& now, Site site) {
    for (; count > 0; ++index, --count) {
        Word& word = words[index];
        std::string wrong = check_write(word, index, now);
        if (!wrong.empty()) return wrong;
        word.write_epoch = now.block_epoch;
        word.write_warp_epoch = now.warp_epoch;
        word.writer = uint16_t(now.thread);
        word.write_site = site;
        word.written = 1;
    }
    return {};
}

std::string Shadow::begin_copy(uint32_t index, uint32_t count, const Moment& now, Site site) {
    std::string wrong = write(index, count, now, site);
    if (!wrong.empty()) return wrong;
    for (uint32_t i = 0; i < count; ++i) words[index + i].in_flight = 1;
    return {};
}

void Shadow::end_copy(uint32_t index, uint32_t count, const Moment& now) {
    for (; count > 0; ++index, --count) {
        Word& word = words[index];
        // To others it is written now, not when it was issued.
        word.write_epoch = now.block_epoch;
        word.write_warp_epoch = now.warp_epoch;
        word.in_flight = 0;
    }
}

}  // namespace infonce::host
