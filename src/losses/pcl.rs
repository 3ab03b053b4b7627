//! The prototype term of ProtoNCE (Li et al. 2021, "Prototypical Contrastive Learning of Unsupervised
//! Representations", PCL).

use super::{Description, Keys, Loss};
use crate::contrast::Contrast;
use crate::error::Error;

pub(super) const LOSS: Loss = Loss {
    key: "pcl",
    name: "PCL",
    source: "Li et al. 2021, equation 11, one granularity",
    formula: "softplus(lse⁻ − z₊), candidates c·τ/φ",
    temperature: 0.1,
    at: Contrast::pcl,
};

impl Contrast {
    /// The prototype term of ProtoNCE (Li et al. 2021, equation 11) for one granularity, on
    /// [`Inputs::Pair`](crate::Inputs::Pair): the embeddings q of a batch against the
    /// [scaled](crate::Prototypes::scaled) centroids k of all clusters, which carry no gradient,
    /// −ln(e^{⟨q, c₊⟩/φ₊}/Σ_c e^{⟨q, c⟩/φ_c}). The positive is the centroid of the row's own cluster,
    /// [`Positives::Index`](crate::Positives::Index). Each centroid is one candidate, so rows of one cluster are not
    /// each other's negatives. The authors sample negative centroids; here all are.
    ///
    /// ProtoNCE is an instance loss, MoCo's or InfoNCE, plus the mean of this term over granularities. The paper's
    /// temperature of both is 0.1.
    /// ```
    /// use infonce::{Contrast, CpuEngine, Engine, Gradients, Inputs, KMeans, MemoryBank};
    /// use infonce::{Matrix, Positives, Rows, RowsMut};
    /// let (engine, dim) = (CpuEngine::new(), 8);
    /// // Once an epoch: clusters of the key encoder's embeddings of all images.
    /// let all = MemoryBank::<f32>::random(40, dim, 1)?;
    /// let granularities = KMeans::default().cluster(&engine, all.as_rows(), &[3, 7])?;
    ///
    /// // A batch of the images 12 and 5: queries, their keys, and earlier keys.
    /// let images = [12, 5];
    /// let [q, own_key, queue] = [(2, 2), (2, 3), (30, 4)]
    ///     .map(|(rows, seed)| MemoryBank::<f32>::random(rows, dim, seed).expect("not empty"));
    /// let inputs = Inputs::Queue { q: q.as_rows(), own_key: own_key.as_rows(), queue: queue.as_rows() };
    /// let mut dq = vec![0.0f32; 2 * dim];
    /// let gradients = Gradients::new(RowsMut::new(&mut dq, 2, dim)?, None);
    /// let mut loss = engine.value_and_grad(&Contrast::moco(0.1)?.on(inputs)?, 1.0, gradients)?.loss;
    ///
    /// let share = 1.0 / granularities.len() as f32;
    /// for prototypes in &granularities {
    ///     let scaled = prototypes.scaled::<f32>();
    ///     let index = images.map(|image| prototypes.assignments()[image]);
    ///     let problem = Contrast::pcl(0.1)?.on(Inputs::Pair {
    ///         q: q.as_rows(),
    ///         k: Rows::new(&scaled, prototypes.centroids().rows(), dim)?,
    ///         positives: Positives::Index(&index[..]),
    ///     })?;
    ///     let gradients = Gradients::new(RowsMut::new(&mut dq, 2, dim)?, None).accumulating();
    ///     loss += share * engine.value_and_grad(&problem, share, gradients)?.loss;
    /// }
    /// assert!(loss.is_finite() && dq.iter().all(|x| x.is_finite()));
    /// # Ok::<(), infonce::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Scalar`] unless `temperature` is finite and greater than 0.
    pub fn pcl(temperature: f32) -> Result<Self, Error> {
        let description = Description {
            keys: Keys::Kept,
            ..Description::PAIR
        };
        Self::at(LOSS.name, description, temperature)
    }
}
