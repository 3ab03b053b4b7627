//! The end of a run: evaluates, then writes both pictures, `report.html` and the last record.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::config::RunConfig;
use super::data::Dataset;
use super::evaluate::{self, Features};
use super::judgement::judge;
use super::metrics::{EvaluationRecord, Record, StepRecord};
use super::platform::{Platform, Waits};
use super::report::{html, plots, views};
use super::run_error::RunError;
use super::run_folder::{self, Metrics, RunFolder};
use super::trainer::Trainer;
use crate::CpuEngine;

/// A finished training, with all that its evaluation and report need.
#[derive(Debug)]
pub struct Ending<'a> {
    /// The method's name in papers.
    pub method: &'a str,
    /// One sentence about the images and the settings.
    pub description: &'a str,
    /// The configuration of the run.
    pub config: &'a RunConfig,
    /// The configuration as TOML.
    pub config_text: &'a str,
    /// The images.
    pub dataset: &'a Dataset,
    /// Features before the first step.
    pub untrained: Features,
    /// Every step of training.
    pub steps: Vec<StepRecord>,
    /// How long training took.
    pub training_seconds: f64,
    /// How long framework and engine waited for each other during training.
    pub waits: Option<Waits>,
    /// Set when the user asks to stop.
    pub stop: &'a AtomicBool,
}

impl Ending<'_> {
    /// Evaluates, then writes the last line of `metrics.jsonl`, both pictures and the page; `None`
    /// when the user has asked to stop.
    ///
    /// # Errors
    /// [`RunError`] when something cannot be computed, drawn or written.
    pub fn write<P: Platform>(
        &self,
        trainer: &Trainer<P>,
        folder: &RunFolder,
        mut metrics: Metrics,
    ) -> Result<Option<EvaluationRecord>, RunError> {
        let started = Instant::now();
        let engine = CpuEngine::new();
        let trained = Features::of(trainer, self.dataset)?;
        let evaluation = judge(
            &engine,
            trainer,
            self.config,
            self.dataset,
            &self.untrained,
            &trained,
        )?;
        if self.stopped() {
            return Ok(None);
        }
        let labels = self.dataset.labels.as_ref();
        let embedding = plots::embedding(
            &evaluate::picture(&engine, &self.untrained, labels)?,
            &evaluate::picture(&engine, &trained, labels)?,
            labels.map_or(&[], |labels| &labels.class_names),
        )?;
        if self.stopped() {
            return Ok(None);
        }
        let title = format!("{} on {}", self.method, self.config.data);
        let loss = plots::loss(&self.steps, &format!("{title}: loss"))?;
        let result = EvaluationRecord {
            evaluation,
            improvement: evaluation.accuracies.map(|found| found.improvement()),
            training_seconds: self.training_seconds,
            evaluation_seconds: started.elapsed().as_secs_f64(),
            waits_per_step: self.waits.map(|waits| waits.per(self.steps.len())),
        };
        let page = html::page(&html::Page {
            title: &title,
            summary: self.description,
            notes: &self.dataset.notes,
            result: &result,
            config: self.config_text,
            loss: &loss,
            embedding: &embedding,
            views: &views::strip(
                &self.dataset.train,
                &self.config.augment,
                self.config.train.seed,
            )?,
        });
        folder.write(run_folder::LOSS_PICTURE, &loss)?;
        folder.write(run_folder::EMBEDDING_PICTURE, &embedding)?;
        folder.write(run_folder::REPORT, page.as_bytes())?;
        metrics.append(&Record::Evaluation(result))?;
        Ok(Some(result))
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
