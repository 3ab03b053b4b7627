//! The prototypes of PCL: spherical k-means over the embeddings of a training set, and each cluster's concentration.

use crate::contrast::same_length;
use crate::element::Element;
use crate::engine::Engine;
use crate::error::{Error, positive, within};
use crate::memory::{Memory, Read, TopK};
use crate::random::SplitMix;
use crate::rows::{Matrix, Rows};

/// α of a cluster's concentration: small clusters do not get an overly large one (Li et al. 2021, section 3.4).
const SMOOTHING: f64 = 10.0;

/// The shares of clusters below and above the range that concentrations are clamped to.
const PERCENTILES: [f64; 2] = [0.1, 0.9];

/// Spherical k-means (Dhillon and Modha 2001): rows are compared by ⟨v_i, c_j⟩, both of length 1.
///
/// Centroids start as a random choice of rows. Each iteration moves every centroid to the direction of the sum of its
/// rows; one that has none, to the row with the least product with its own centroid. It ends early where no row changes
/// its cluster. Of several starts the one with the largest Σ_i ⟨v_i, c⟩ counts. An engine and a seed give the same bits
/// each time.
///
/// ```
/// use infonce::{CpuEngine, KMeans, Rows};
/// let rows = [1.0f32, 0.1, -1.0, 0.0, 1.0, -0.1, -1.0, 0.2];
/// let found = KMeans::default().cluster(&CpuEngine::new(), Rows::new(&rows, 4, 2)?, &[2])?;
/// let cluster = found[0].assignments();
/// assert!(cluster[0] == cluster[2] && cluster[1] == cluster[3] && cluster[0] != cluster[1]);
/// # Ok::<(), infonce::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KMeans {
    /// Starts, at least 1; 5 by default, as in the authors' code.
    pub starts: usize,
    /// Most iterations of a start; 20 by default, as in the authors' code.
    pub iterations: usize,
    /// Decides the starts; 0 by default.
    pub seed: u64,
}

impl Default for KMeans {
    fn default() -> Self {
        Self {
            starts: 5,
            iterations: 20,
            seed: 0,
        }
    }
}

impl KMeans {
    /// The prototypes of `embeddings`, N × D, at several granularities: one set for each number K of `clusters`. Rows
    /// are normalised first; a row of zeros stays. The engine normalises and finds each row's centroid
    /// ([`Engine::top_k`], 2NKD FLOPs an iteration), in f32; the host sums rows in f64, one after another. The i-th
    /// granularity starts from the seed `seed + i`.
    ///
    /// PCL clusters the key encoder's embeddings of all images once an epoch.
    ///
    /// # Errors
    /// [`Error::Scalar`] unless 1 ≤ K ≤ N and there is a start, [`Error::NotFinite`] for a row without a finite length,
    /// and those of the engine.
    pub fn cluster<E: Engine, T: Element>(
        &self,
        engine: &E,
        embeddings: Rows<'_, T>,
        clusters: &[usize],
    ) -> Result<Vec<Prototypes>, Error> {
        for &k in clusters {
            if k == 0 || k > embeddings.rows() {
                return Err(Error::Scalar {
                    argument: "clusters",
                    given: k as f64,
                    allowed: "at least 1, and at most the number of embeddings",
                });
            }
        }
        let starts = self.starts as f32;
        within("starts", starts, "at least 1", self.starts > 0)?;
        let points = Points::new(engine, embeddings)?;
        let seeds = (0u64..).map(|place| self.seed.wrapping_add(place));
        let granularities = clusters.iter().zip(seeds);
        granularities
            .map(|(&k, seed)| points.prototypes(k, self, SplitMix::new(seed)))
            .collect()
    }
}

/// One clustering of a training set (PCL, Li et al. 2021, section 3): K centroids, the cluster of each of N rows, and
/// each cluster's concentration φ.
///
/// ```text
/// φ_c = Σ_{i in c} ‖v_i − c‖ / (Z log(Z + α)),  Z rows in the cluster, α = 10      (equation 12)
/// ```
/// φ is then scaled to the mean τ. Before, as in the authors' code, clusters of one row get the largest φ, and φ is
/// clamped to its 10th and 90th percentiles. Clusters without rows, or of copies of one row, count as those of one row:
/// none of them shows its spread.
///
/// [`Contrast::pcl`](crate::Contrast::pcl) is the loss over the [`scaled`](Self::scaled) centroids.
#[derive(Debug, Clone, PartialEq)]
pub struct Prototypes {
    /// K × D.
    centroids: Vec<f32>,
    dim: usize,
    assignments: Vec<u32>,
    /// φ/τ.
    concentrations: Vec<f32>,
}

impl Prototypes {
    /// The prototypes that were saved as the elements of [`centroids`](Self::centroids), of dimension `dim`,
    /// [`assignments`](Self::assignments) and [`concentrations`](Self::concentrations): exact, bit for bit.
    ///
    /// # Errors
    /// [`Error::Empty`] without a cluster or when `dim` is 0, [`Error::Length`] unless there is a centroid for each
    /// concentration, [`Error::RowOutOfRange`] for a row whose cluster does not exist, [`Error::Scalar`] for a
    /// concentration that is not finite and greater than 0.
    pub fn restore(
        dim: usize,
        centroids: &[f32],
        assignments: &[u32],
        concentrations: &[f32],
    ) -> Result<Self, Error> {
        let clusters = concentrations.len();
        if clusters == 0 || dim == 0 {
            return Err(Error::Empty {
                argument: "centroids",
                rows: clusters,
                dim,
            });
        }
        same_length("centroids", centroids.len(), clusters.saturating_mul(dim))?;
        let is_wrong = |&cluster: &u32| cluster as usize >= clusters;
        if let Some(place) = assignments.iter().position(is_wrong) {
            return Err(Error::RowOutOfRange {
                argument: "assignments",
                place,
                given: assignments[place],
                rows: clusters,
            });
        }
        for &concentration in concentrations {
            positive("concentrations", concentration)?;
        }
        Ok(Self {
            centroids: centroids.to_vec(),
            dim,
            assignments: assignments.to_vec(),
            concentrations: concentrations.to_vec(),
        })
    }

    /// The centroids, K rows of dimension D: unit rows, of zeros where a cluster's embeddings sum to zero.
    pub fn centroids(&self) -> Rows<'_, f32> {
        Rows::whole(&self.centroids, self.concentrations.len(), self.dim)
    }

    /// The cluster of each of the N embeddings, from 0 to K − 1.
    pub fn assignments(&self) -> &[u32] {
        &self.assignments
    }

    /// φ_c/τ of each of the K clusters, of mean 1.
    pub fn concentrations(&self) -> &[f32] {
        &self.concentrations
    }

    /// The candidates of [`Contrast::pcl`](crate::Contrast::pcl): c·τ/φ_c, K × D, row after row. At any scale s = 1/τ
    /// their logits are ⟨q_i, c⟩/φ_c.
    pub fn scaled<T: Element>(&self) -> Vec<T> {
        let rows = self.centroids.chunks(self.dim).zip(&self.concentrations);
        let scaled =
            rows.flat_map(|(row, &concentration)| row.iter().map(move |x| x / concentration));
        scaled.map(T::from_f32).collect()
    }
}

/// Unit rows, in the engine's memory and on the host.
struct Points<'e, E: Engine> {
    engine: &'e E,
    there: <E::Memory as Memory>::Buffer<f32>,
    here: Vec<f32>,
    dim: usize,
}

impl<'e, E: Engine> Points<'e, E> {
    fn new<T: Element>(engine: &'e E, embeddings: Rows<'_, T>) -> Result<Self, Error> {
        let memory = engine.memory();
        let (rows, dim) = (embeddings.rows(), embeddings.dim());
        let given = memory.upload(&embeddings.contiguous())?;
        let mut there = memory.upload(&vec![0.0f32; rows * dim])?;
        let mut norms = memory.upload(&vec![0.0f32; rows])?;
        engine.normalize(
            memory.rows(&given, rows, dim)?,
            memory.rows_mut(&mut there, rows, dim)?,
            memory.vector_mut(&mut norms)?,
            1e-12,
        )?;
        let norms = memory.download(&norms)?;
        if let Some(row) = norms.iter().position(|norm| !norm.is_finite()) {
            return Err(Error::NotFinite {
                argument: "embeddings",
                row,
            });
        }
        let here = memory.download(&there)?;
        Ok(Self {
            engine,
            there,
            here,
            dim,
        })
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.here[i * self.dim..][..self.dim]
    }

    fn count(&self) -> usize {
        self.here.len() / self.dim
    }

    fn prototypes(
        &self,
        clusters: usize,
        means: &KMeans,
        mut random: SplitMix,
    ) -> Result<Prototypes, Error> {
        let total = |(_, nearest): &(Vec<f32>, TopK)| -> f64 {
            nearest.scores.iter().map(|&score| f64::from(score)).sum()
        };
        let mut best = self.cluster(clusters, means.iterations, &mut random)?;
        for _ in 1..means.starts {
            let other = self.cluster(clusters, means.iterations, &mut random)?;
            if total(&other) > total(&best) {
                best = other;
            }
        }
        let (centroids, nearest) = best;
        Ok(Prototypes {
            concentrations: self.concentrations(&centroids, &nearest.indices),
            centroids,
            dim: self.dim,
            assignments: nearest.indices,
        })
    }

    /// The centroids after one start, and each row's.
    fn cluster(
        &self,
        clusters: usize,
        iterations: usize,
        random: &mut SplitMix,
    ) -> Result<(Vec<f32>, TopK), Error> {
        // The first rows of a shuffle (Fisher and Yates).
        let mut order: Vec<usize> = (0..self.count()).collect();
        for place in 0..clusters {
            let other = place + random.below(order.len() - place);
            order.swap(place, other);
        }
        let start = order[..clusters].iter().flat_map(|&i| self.row(i));
        let mut centroids: Vec<f32> = start.copied().collect();
        let mut nearest = self.nearest(&centroids)?;
        for _ in 0..iterations {
            self.move_to_means(&mut centroids, &nearest);
            let moved = self.nearest(&centroids)?;
            let is_settled = moved.indices == nearest.indices;
            nearest = moved;
            if is_settled {
                break;
            }
        }
        Ok((centroids, nearest))
    }

    /// The centroid with the largest product with each row, and that product.
    fn nearest(&self, centroids: &[f32]) -> Result<TopK, Error> {
        let memory = self.engine.memory();
        let there = memory.upload(centroids)?;
        let points = memory.rows(&self.there, self.count(), self.dim)?;
        let centroids = memory.rows(&there, centroids.len() / self.dim, self.dim)?;
        self.engine.top_k(points, centroids, 1, false)?.read()
    }

    /// Each centroid becomes the direction of the sum of its rows. One whose sum has none becomes one of the rows with
    /// the least products.
    fn move_to_means(&self, centroids: &mut [f32], nearest: &TopK) {
        let mut sums = vec![0.0f64; centroids.len()];
        for (i, &cluster) in nearest.indices.iter().enumerate() {
            let sum = &mut sums[cluster as usize * self.dim..][..self.dim];
            for (sum, x) in sum.iter_mut().zip(self.row(i)) {
                *sum += f64::from(*x);
            }
        }
        let mut empty = Vec::new();
        for (centroid, sum) in centroids.chunks_mut(self.dim).zip(sums.chunks(self.dim)) {
            let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
            if norm == 0.0 {
                empty.push(centroid);
                continue;
            }
            for (x, sum) in centroid.iter_mut().zip(sum) {
                *x = (sum / norm) as f32;
            }
        }
        if empty.is_empty() {
            return;
        }
        let mut worst: Vec<usize> = (0..self.count()).collect();
        worst.sort_by(|&a, &b| nearest.scores[a].total_cmp(&nearest.scores[b]));
        for (centroid, row) in empty.into_iter().zip(worst) {
            centroid.copy_from_slice(self.row(row));
        }
    }

    /// φ of each cluster, divided by the mean of all.
    fn concentrations(&self, centroids: &[f32], assignments: &[u32]) -> Vec<f32> {
        let mut clusters: Vec<Cluster> = vec![Cluster::default(); centroids.len() / self.dim];
        for (i, &cluster) in assignments.iter().enumerate() {
            let (row, c) = (self.row(i), cluster as usize);
            let centroid = &centroids[c * self.dim..][..self.dim];
            let differences = row.iter().zip(centroid);
            let differences = differences.map(|(&x, &c)| f64::from(x) - f64::from(c));
            let cluster = &mut clusters[c];
            cluster.rows += 1;
            cluster.distances += differences.map(|x| x * x).sum::<f64>().sqrt();
            let first = *cluster.first.get_or_insert(i);
            cluster.has_spread |= self.row(first) != row;
        }
        let known = clusters.iter().filter_map(Cluster::concentration);
        // 0 where no cluster has a spread; all have the same then.
        let largest = known.fold(0.0, f64::max);
        let all = clusters
            .iter()
            .map(|cluster| match cluster.concentration() {
                Some(concentration) => concentration,
                None if largest > 0.0 => largest,
                None => 1.0,
            });
        let all: Vec<f64> = all.collect();
        let [lowest, highest] = PERCENTILES.map(|share| quantile(&all, share));
        let clamped = all.iter().map(|x| x.clamp(lowest, highest));
        let mean = clamped.clone().sum::<f64>() / all.len() as f64;
        clamped.map(|x| (x / mean) as f32).collect()
    }
}

/// What a cluster's concentration is computed from.
#[derive(Debug, Clone, Default)]
struct Cluster {
    rows: usize,
    /// Σ ‖v_i − c‖.
    distances: f64,
    first: Option<usize>,
    /// Whether a row differs from the first.
    has_spread: bool,
}

impl Cluster {
    /// Equation 12; `None` where the rows do not differ.
    fn concentration(&self) -> Option<f64> {
        let rows = self.rows as f64;
        let concentration = self.distances / (rows * (rows + SMOOTHING).ln());
        self.has_spread.then_some(concentration)
    }
}

/// The quantile of some numbers, interpolated between neighbours.
fn quantile(numbers: &[f64], share: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len() - 1) as f64;
    let below = place as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}
