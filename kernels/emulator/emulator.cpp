// The C interface: finds a kernel by name, checks its launch, and runs its clusters in the seed's order.
#include "emulator/emulator.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "emulator/cluster.h"

namespace infonce::emulator {
namespace {

struct Kernel {
    uint32_t threads;
    size_t params_bytes;
    uint32_t cluster;  // blocks
    void (*run)(const void*);
};

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

int refuse(char* report, uint64_t report_bytes, const std::string& what) {
    if (report_bytes > 0) {
        const size_t length = std::min<size_t>(what.size(), report_bytes - 1);
        std::memcpy(report, what.data(), length);
        report[length] = 0;
    }
    return 2;
}

int run(const InfonceEmulatorLaunch& launch, char* report, uint64_t report_bytes) {
    const std::string name = launch.kernel;
    const auto found = kernels().find(name);
    if (found == kernels().end()) return refuse(report, report_bytes, "there is no kernel " + name);
    const Kernel& kernel = found->second;
    if (launch.threads != kernel.threads)
        return refuse(report, report_bytes, name + " has blocks of " + std::to_string(kernel.threads) + " threads, not " + std::to_string(launch.threads));
    if (launch.params_bytes != kernel.params_bytes)
        return refuse(report, report_bytes, name + " takes " + std::to_string(kernel.params_bytes) + " bytes of parameters, not " + std::to_string(launch.params_bytes));
    if (launch.threads == 0 || launch.threads % WARP != 0 || launch.threads > MOST_THREADS)
        return refuse(report, report_bytes, name + ": a block has whole warps, at most " + std::to_string(MOST_THREADS) + " threads");
    if (launch.shared_bytes > MOST_SHARED || launch.shared_bytes % 4 != 0)
        return refuse(report, report_bytes, name + ": a block has at most " + std::to_string(MOST_SHARED) + " bytes of shared memory, whole words");
    const uint64_t blocks = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
    if (blocks == 0) return refuse(report, report_bytes, name + ": the grid is empty");
    if (launch.grid[0] % kernel.cluster != 0)
        return refuse(report, report_bytes, name + " has clusters of " + std::to_string(kernel.cluster) + " blocks; a grid of " + std::to_string(launch.grid[0]) + " blocks in x is not whole clusters");

    // Clusters, mostly of one block, in an order that the seed decides: x -> (x · step + start) mod clusters, step coprime.
    const uint64_t mixed = (launch.seed + 1) * 0x9e3779b97f4a7c15u;
    const uint64_t clusters = blocks / kernel.cluster, row = launch.grid[0] / kernel.cluster;
    uint64_t step = mixed >> 32, start = (mixed >> 8) % clusters;
    auto divisor = [](uint64_t a, uint64_t b) {
        while (b != 0) std::swap(a %= b, b);
        return a;
    };
    step %= clusters;
    if (step == 0) step = 1;
    while (divisor(step, clusters) != 1) ++step;
    Cluster& cluster = this_cluster();
    for (uint64_t i = 0; i < clusters; ++i) {
        const uint64_t number = uint64_t((unsigned __int128)(i)*step % clusters + start) % clusters;
        const uint32_t first[3] = {uint32_t(number % row * kernel.cluster), uint32_t(number / row % launch.grid[1]),
                                   uint32_t(number / row / launch.grid[1])};
        if (!cluster.run(launch, kernel.run, kernel.cluster, first, launch.seed + number)) {
            refuse(report, report_bytes, name + ", " + cluster.fault());
            return 1;
        }
    }
    return 0;
}

}  // namespace

Registration::Registration(const char* name, uint32_t threads, size_t params_bytes, uint32_t cluster, void (*body)(const void*)) {
    kernels()[name] = Kernel{threads, params_bytes, cluster, body};
}

}  // namespace infonce::emulator

int infonce_emulator_launch(const InfonceEmulatorLaunch* launch, char* report, uint64_t report_bytes) {
    try {
        return infonce::emulator::run(*launch, report, report_bytes);
    } catch (const std::exception& error) {
        return infonce::emulator::refuse(report, report_bytes, error.what());
    }
}

int infonce_emulator_describe(const char* kernel, uint32_t* threads, uint64_t* params_bytes) {
    const auto& all = infonce::emulator::kernels();
    const auto found = all.find(kernel);
    if (found == all.end()) return 2;
    *threads = found->second.threads;
    *params_bytes = found->second.params_bytes;
    return 0;
}
