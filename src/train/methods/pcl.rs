//! PCL: MoCo, and each query against prototypes, the centres of clusters of all training images (Li et al.
//! 2021, algorithm 1 and equation 11).
//!
//! ```text
//! loss = MoCo's + mean over granularities of −ln(e^{⟨q, c₊⟩/φ₊} / Σ_c e^{⟨q, c⟩/φ_c})
//! ```
//! Before every epoch after a warm-up, k-means clusters the momentum encoder's embeddings of all training
//! images without augmentation, once for each granularity. A query's positive is the centroid of its image's
//! cluster. The paper has 25,000, 50,000 and 100,000 clusters of 1.28 million images: clusters of 51, 26 and
//! 13 images, and a warm-up of 20 epochs of 200.

use burn::backend::Autodiff;
use burn::backend::autodiff::grads::Gradients;
use burn::module::AutodiffModule;
use serde::{Deserialize, Serialize};

use super::learner::part;
use super::moco::{KeptTerm, Moco};
use super::step::{Batch, LossReport};
use super::{Learner, Method, MethodConfig, MocoSettings, Run, Settings, State};
use crate::train::augment::to_float;
use crate::train::bridge;
use crate::train::encoder::Model;
use crate::train::error::TrainError;
use crate::train::image_set::ImageSet;
use crate::train::patches::PatchGrid;
use crate::train::platform::{MemoryOf, Platform};
use crate::train::setting::{number, require};
use crate::{Contrast, Engine, KMeans, Matrix, Memory, Prototypes, Rows};

pub(super) const METHOD: Method = Method {
    key: "pcl",
    name: "PCL",
    source: "Li et al. 2021, algorithm 1 and equation 11",
    help: "MoCo, and each query against prototypes: the centres of clusters of all training images",
    loss: "pcl",
    temperature: 0.2,
    learning_rate: 0.3,
    warmup: 0.05,
    prediction: false,
    unfit: |loss| (loss.key != "pcl").then_some("its candidates are not prototypes"),
    settings: || MethodConfig::Pcl(PclSettings::default()),
};

/// Images that are embedded at a time.
const AT_A_TIME: usize = 256;

/// The settings of PCL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PclSettings {
    /// Those of the part that is MoCo's.
    #[serde(flatten)]
    pub moco: MocoSettings,
    /// Images in a cluster, in the mean, for each granularity.
    pub cluster_sizes: Vec<usize>,
    /// Share of all epochs that pass before the first clustering.
    pub cluster_warmup: f64,
}

impl Default for PclSettings {
    fn default() -> Self {
        Self {
            moco: MocoSettings::default(),
            cluster_sizes: vec![51, 26, 13],
            cluster_warmup: 0.1,
        }
    }
}

impl Settings for PclSettings {
    fn validate(&self, batch: usize, dim: usize) -> Result<(), TrainError> {
        self.moco.validate(batch, dim)?;
        let (sizes, warmup) = (&self.cluster_sizes, self.cluster_warmup);
        let given = format!("{sizes:?}");
        let count = (1..=8).contains(&sizes.len());
        require("cluster_sizes", &given, "a list of 1 to 8 numbers", count)?;
        let whole = sizes.iter().all(|&size| size >= 1);
        require("cluster_sizes", &given, "numbers of at least 1", whole)?;
        let share = (0.0..=1.0).contains(&warmup);
        require("cluster_warmup", number(warmup), "between 0 and 1", share)
    }

    fn start<P: Platform>(&self, run: &Run<'_, P>) -> Result<Box<dyn Learner<P>>, TrainError> {
        let instances = Contrast::moco(run.temperature)?;
        let clusters = |&size: &usize| (run.images / size).clamp(2, run.images);
        Ok(Box::new(Pcl {
            moco: Moco::new(&self.moco, run, instances)?,
            contrast: run.contrast,
            clusters: self.cluster_sizes.iter().map(clusters).collect(),
            images: run.images,
            dim: run.dim,
            seed: run.seed,
            first_epoch: (self.cluster_warmup * run.epochs as f64).ceil() as u64,
            granularities: Vec::new(),
        }))
    }
}

#[derive(Debug)]
struct Pcl<P: Platform> {
    moco: Moco<P>,
    contrast: Contrast,
    /// The number of clusters of each granularity.
    clusters: Vec<usize>,
    images: usize,
    dim: usize,
    seed: u64,
    /// The epoch, counted from 0, that the first clustering precedes.
    first_epoch: u64,
    /// Empty before the first clustering.
    granularities: Vec<Granularity<P>>,
}

/// One clustering.
#[derive(Debug)]
struct Granularity<P: Platform> {
    prototypes: Prototypes,
    /// The candidates, K × D, in the engine's memory.
    scaled: <MemoryOf<P> as Memory>::Buffer<f32>,
}

impl<P: Platform> Granularity<P> {
    fn all(platform: &P, prototypes: Vec<Prototypes>) -> Result<Vec<Self>, crate::Error> {
        let memory = platform.engine().memory();
        let granularity = |prototypes: Prototypes| {
            let scaled = memory.upload(&prototypes.scaled::<f32>())?;
            Ok(Self { prototypes, scaled })
        };
        prototypes.into_iter().map(granularity).collect()
    }
}

impl<P: Platform> Learner<P> for Pcl<P> {
    /// Clusters all training images, once the warm-up is over.
    fn start_epoch(
        &mut self,
        platform: &P,
        epoch: u64,
        images: &ImageSet,
        grid: &PatchGrid,
    ) -> Result<(), TrainError> {
        if epoch < self.first_epoch {
            return Ok(());
        }
        let key = self.moco.key.model().valid();
        let indices: Vec<usize> = (0..images.len()).collect();
        let mut embeddings = Vec::with_capacity(images.len() * self.dim);
        for indices in indices.chunks(AT_A_TIME) {
            let pixels = to_float(images, indices)?;
            embeddings.extend(bridge::embed(platform, &key, grid, &pixels, AT_A_TIME)?);
        }
        let means = KMeans {
            seed: self.seed.wrapping_add(epoch.wrapping_mul(self.clusters.len() as u64)),
            ..KMeans::default()
        };
        let rows = Rows::new(&embeddings, images.len(), self.dim)?;
        let prototypes = means.cluster(platform.engine(), rows, &self.clusters)?;
        self.granularities = Granularity::all(platform, prototypes)?;
        Ok(())
    }

    fn step(
        &mut self,
        platform: &P,
        model: &Model<Autodiff<P::Backend>>,
        batch: Batch<'_>,
        upstream: f32,
    ) -> Result<(LossReport, Gradients), TrainError> {
        let memory = platform.engine().memory();
        let weight = 1.0 / self.clusters.len() as f32;
        let terms = self.granularities.iter().map(|granularity| {
            let assignments = granularity.prototypes.assignments();
            let of_images = batch.images.iter().map(|&image| assignments[image]);
            Ok(KeptTerm {
                contrast: self.contrast,
                weight,
                candidates: &granularity.scaled,
                count: granularity.prototypes.centroids().rows(),
                positives: memory.upload(&of_images.collect::<Vec<u32>>())?,
            })
        });
        let terms: Vec<_> = terms.collect::<Result<_, crate::Error>>()?;
        self.moco.step_with(platform, model, batch, upstream, &terms)
    }

    fn state(&self, platform: &P) -> Result<State<P::Backend>, TrainError> {
        let prototypes = self.granularities.iter().map(|of| of.prototypes.clone());
        Ok(State {
            prototypes: prototypes.collect(),
            ..self.moco.state(platform)?
        })
    }

    fn restore(&mut self, platform: &P, mut state: State<P::Backend>) -> Result<(), TrainError> {
        let prototypes = std::mem::take(&mut state.prototypes);
        let prototypes = part("prototypes", Some(prototypes), |found| {
            found.iter().all(|of| of.assignments().len() == self.images)
        })?;
        self.granularities = Granularity::all(platform, prototypes)?;
        self.moco.restore(platform, state)
    }
}
