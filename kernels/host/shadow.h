// What is known of every word of shared memory: who wrote and read it since the last barrier, and
// whether an asynchronous copy is on its way to it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/interface.h"

namespace infonce::host {

// A point in a thread's time: barriers of its block, and of its warp, that it has passed.
struct Moment {
    uint32_t thread;
    uint32_t block_epoch;
    uint32_t warp_epoch;
};

class Shadow {
  public:
    // Forgets everything; `words` words, none written.
    void reset(uint32_t words);
    // Each returns an empty string, or what is wrong with the access.
    std::string read(uint32_t word, uint32_t count, const Moment& now, Site site);
    std::string write(uint32_t word, uint32_t count, const Moment& now, Site site);
    // A copy starts, which is a write as far as others are concerned; and ends.
    std::string begin_copy(uint32_t word, uint32_t count, const Moment& now, Site site);
    void end_copy(uint32_t word, uint32_t count, const Moment& now);

  private:
    static constexpr uint16_t NOBODY = 0xffff, MANY = 0xfffe;
    struct Word {
        uint32_t write_epoch, write_warp_epoch, read_epoch, read_warp_epoch;
        uint16_t writer, reader;  // of that epoch
        uint16_t reading_warp;    // NOBODY: none; MANY: more than one
        uint8_t written, in_flight;
        Site write_site;
    };
    std::vector<Word> words;

    std::string check_write(const Word& word, uint32_t index, const Moment& now) const;
};

}  // namespace infonce::host
