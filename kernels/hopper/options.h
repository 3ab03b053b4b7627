// Parameters of the sm_90a tile loop with options (similarity/options.h): HopperScoresParams, and the options.
#pragma once

#include "hopper/scores.h"
#include "similarity/options.h"

namespace infonce {

struct HopperOptionScoresParams {
    TensorMap anchors, candidates, weights;
    ScoresParams scores;
    ScoreOptions options;
    WorkGrid grid;
    INFONCE_DEVICE operator const ScoresParams&() const { return scores; }
};

}  // namespace infonce
