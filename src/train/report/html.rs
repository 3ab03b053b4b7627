//! `report.html`: the whole run on one page that needs nothing beside it.

use std::fmt::Write;

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::train::evaluate::{Accuracies, CollapseChecks, Verdict};
use crate::train::metrics::EvaluationRecord;

/// What the page shows.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The method as papers write it.
    pub method: &'a str,
    /// The data source as the user wrote it.
    pub data: &'a str,
    /// A sentence about what was trained on.
    pub summary: &'a str,
    /// What was passed over or is odd about the files, a sentence each.
    pub notes: &'a [String],
    /// What the run was worth.
    pub result: &'a EvaluationRecord,
    /// `config.toml`.
    pub config: &'a str,
    /// `loss.png`.
    pub loss: &'a [u8],
    /// `embedding.png`.
    pub embedding: &'a [u8],
    /// Some images with two views each, PNG.
    pub views: &'a [u8],
}

const STYLE: &str = "
:root { --ink: #111827; --soft: #6b7280; --line: #e5e7eb; --accent: #2563eb; --good: #059669; --bad: #dc2626; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f4f6; color: var(--ink); font: 16px/1.55 system-ui, 'Segoe UI', Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; margin: 0; } h2 { font-size: 19px; margin: 0 0 14px; }
p { margin: 6px 0; } .soft { color: var(--soft); }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 22px 26px; margin-top: 20px; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 16px; margin-top: 24px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 16px 20px; }
.card b { display: block; font-size: 30px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); }
table { border-collapse: collapse; width: 100%; } td, th { padding: 7px 10px 7px 0; text-align: left; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; } th { font-weight: 600; color: var(--soft); font-size: 14px; }
td.number { text-align: right; font-variant-numeric: tabular-nums; width: 90px; white-space: nowrap; }
td.bar { width: 45%; } .bar i { display: block; height: 14px; border-radius: 7px; background: #9ca3af; } .bar i.ours { background: var(--accent); }
img { width: 100%; height: auto; display: block; } img.views { image-rendering: pixelated; }
.config { columns: 2; column-gap: 40px; } pre { margin: 0 0 14px; overflow: auto; break-inside: avoid; font: 13.5px/1.5 ui-monospace, 'DejaVu Sans Mono', Menlo, monospace; }
@media (max-width: 760px) { .cards { grid-template-columns: repeat(2, 1fr); } .config { columns: 1; } }
";

/// The page's text.
pub fn page(page: &Page<'_>) -> String {
    let mut html = String::new();
    let evaluation = &page.result.evaluation;
    let title = format!("{} on {}", escape(page.method), escape(page.data));
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title} · infonce</title><style>{STYLE}</style></head>\n<body><main>\n\
         <h1>{title}</h1>\n<p class=\"soft\">{}</p>\n",
        escape(page.summary),
    );
    for note in page.notes {
        let _ = writeln!(html, "<p class=\"soft\">{}.</p>", escape(note));
    }
    let _ = match &evaluation.accuracies {
        Some(found) => write!(
            html,
            "{}\n{}\n",
            cards(found, &evaluation.collapse),
            accuracies(page.result, found)
        ),
        None => write!(
            html,
            "{}\n{}\n",
            unlabelled_cards(&evaluation.collapse),
            unlabelled(page.result)
        ),
    };
    let _ = writeln!(html, "{}", collapse(&evaluation.collapse));
    let colours = match evaluation.accuracies {
        Some(_) => "Colours are labels, which training never saw.",
        None => "There are no labels to colour them by.",
    };
    let sections = [
        (
            "Embeddings of held-out images",
            &format!(
                "t-SNE of encoder features; images whose features point the same way lie together. \
                 {colours}"
            ) as &str,
            page.embedding,
            "embedding",
        ),
        (
            "Loss",
            "Every step, and its course smoothed. Below the dashed line the encoder tells images \
             apart.",
            page.loss,
            "loss",
        ),
        (
            "What the encoder trained on",
            "Each column: a training image, and two of its random views. The loss pulls the two \
             together and pushes all others away.",
            page.views,
            "views",
        ),
    ];
    for (heading, text, picture, class) in sections {
        let _ = writeln!(
            html,
            "<section><h2>{heading}</h2><p class=\"soft\">{text}</p>\
             <img class=\"{class}\" alt=\"{heading}\" src=\"data:image/png;base64,{}\"></section>",
            BASE64_STANDARD.encode(picture),
        );
    }
    html.push_str(
        "<section><h2>Configuration</h2><p class=\"soft\">Every value in force. \
         <code>--config config.toml</code> repeats the run.</p><div class=\"config\">",
    );
    for table in page.config.trim().split("\n\n") {
        let _ = write!(html, "<pre>{}</pre>", escape(table));
    }
    html.push_str("</div></section>\n</main></body></html>\n");
    html
}

/// Four numbers to see first.
fn cards(found: &Accuracies, checks: &CollapseChecks) -> String {
    let improvement = found.improvement();
    let better = if improvement > 0.0 { "good" } else { "bad" };
    format!(
        "<div class=\"cards\">\
         <div class=\"card\"><b>{:.1}%</b>held-out kNN</div>\
         <div class=\"card\"><b>{:.1}%</b>linear probe</div>\
         <div class=\"card\"><b class=\"{better}\">{improvement:+.1}</b>points over the better baseline</div>\
         {}</div>",
        100.0 * found.trained_knn,
        100.0 * found.linear_probe,
        collapse_card(checks.verdict),
    )
}

/// The same without labels.
fn unlabelled_cards(checks: &CollapseChecks) -> String {
    format!(
        "<div class=\"cards\">\
         <div class=\"card\"><b>{:.3}</b>alignment</div>\
         <div class=\"card\"><b>{:.3}</b>uniformity</div>\
         <div class=\"card\"><b>{:.3}</b>standard deviation</div>\
         {}</div>",
        checks.alignment,
        checks.uniformity,
        checks.deviation,
        collapse_card(checks.verdict),
    )
}

fn collapse_card(verdict: Verdict) -> String {
    let (word, class) = match verdict {
        Verdict::Spread => ("none", "good"),
        Verdict::Narrow => ("partial", "bad"),
        Verdict::Collapsed => ("complete", "bad"),
        Verdict::NotFinite => ("not finite", "bad"),
        Verdict::Unknown => ("unknown", "bad"),
    };
    format!("<div class=\"card\"><b class=\"{class}\">{word}</b>collapse</div>")
}

/// What stands in the place of accuracies.
fn unlabelled(result: &EvaluationRecord) -> String {
    format!(
        "<section><h2>No accuracies</h2><p>{NO_LABELS}</p><p class=\"soft\">{}</p></section>",
        times(result),
    )
}

/// What is left out for images without labels, and why.
pub const NO_LABELS: &str =
    "The images have no labels, so kNN, linear probe and points above the baseline are left out.";

fn times(result: &EvaluationRecord) -> String {
    format!(
        "Training took {}, evaluation {}.",
        duration(result.training_seconds),
        duration(result.evaluation_seconds),
    )
}

fn accuracies(result: &EvaluationRecord, found: &Accuracies) -> String {
    let evaluation = &result.evaluation;
    let k = found.k;
    let rows = [
        (
            "Trained encoder, linear probe".to_owned(),
            found.linear_probe,
            "ours",
        ),
        (
            format!("Trained encoder, kNN (k = {k})"),
            found.trained_knn,
            "ours",
        ),
        (
            format!("Untrained encoder, kNN (k = {k})"),
            found.untrained_knn,
            "",
        ),
        (format!("Raw pixels, kNN (k = {k})"), found.pixels_knn, ""),
        ("Always the commonest class".to_owned(), found.chance, ""),
    ];
    let mut html = format!(
        "<section><h2>Accuracy on {} held-out images</h2><table>\
         <tr><th>features and classifier</th><th></th><th></th></tr>",
        evaluation.test_images,
    );
    for (name, share, class) in rows {
        let percent = 100.0 * share;
        let _ = write!(
            html,
            "<tr><td>{name}</td><td class=\"bar\"><i class=\"{class}\" style=\"width:{percent:.2}%\">\
             </i></td><td class=\"number\">{percent:.1}%</td></tr>",
        );
    }
    let _ = write!(
        html,
        "</table><p class=\"soft\">Neighbours and the linear probe come from {} training images; \
         kNN weighs neighbours by exp(cosine/0.1). Pixels are taken less the mean training image. {}</p></section>",
        evaluation.train_images,
        times(result),
    );
    html
}

fn collapse(checks: &CollapseChecks) -> String {
    let rows = [
        (
            "Alignment",
            checks.alignment,
            "mean squared distance between two views of an image; 0 is perfect, 2 is chance",
        ),
        (
            "Uniformity",
            checks.uniformity,
            "log mean exp(−2·squared distance) of pairs of images; 0 is one point, about −4 is even",
        ),
        (
            "Standard deviation",
            checks.deviation,
            "per coordinate, times √D; 0 is one point, 1 is even over the sphere",
        ),
    ];
    let mut html = format!(
        "<section><h2>Collapse checks</h2><p class=\"soft\">On the projection head's outputs for \
         two views of {} held-out images: {}.</p><table>",
        checks.images,
        checks.verdict.sentence(),
    );
    for (name, value, meaning) in rows {
        let _ = write!(
            html,
            "<tr><td>{name}</td><td class=\"number\">{value:.3}</td>\
             <td class=\"soft\">{meaning}</td></tr>",
        );
    }
    html.push_str("</table></section>");
    html
}

/// Seconds in the units that people read.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
pub(in crate::train) mod tests {
    use super::*;
    use crate::train::evaluate::Evaluation;

    pub(in crate::train) fn result() -> EvaluationRecord {
        EvaluationRecord {
            evaluation: Evaluation {
                train_images: 4096,
                test_images: 1024,
                accuracies: Some(Accuracies {
                    k: 20,
                    trained_knn: 0.625,
                    linear_probe: 0.6875,
                    pixels_knn: 0.2,
                    untrained_knn: 0.225,
                    chance: 0.1,
                }),
                collapse: CollapseChecks {
                    alignment: 0.25,
                    uniformity: -3.5,
                    deviation: 0.9,
                    images: 1024,
                    verdict: Verdict::Spread,
                },
            },
            improvement: Some(40.0),
            training_seconds: 200.0,
            evaluation_seconds: 4.25,
            waits_per_step: None,
        }
    }

    fn page_of(result: &EvaluationRecord) -> String {
        page(&Page {
            method: "SimCLR",
            data: "folder:<a&b>",
            summary: "4,096 images",
            notes: &["1 file <a> was left out".to_owned()],
            result,
            config: "seed = 7",
            loss: b"loss",
            embedding: b"embedding",
            views: b"views",
        })
    }

    #[test]
    fn the_page_shows_every_number_and_holds_every_picture() {
        let html = page_of(&result());
        for expected in [
            "SimCLR on folder:&lt;a&amp;b&gt;",
            "62.5%",
            "68.8%",
            "20.0%",
            "22.5%",
            "10.0%",
            "+40.0",
            "k = 20",
            "0.250",
            "-3.500",
            "0.900",
            "3 min 20 s",
            "4.2 s",
            "seed = 7",
            "1 file &lt;a&gt; was left out.",
        ] {
            assert!(html.contains(expected), "{expected} is missing");
        }
        for picture in ["loss", "embedding", "views"] {
            assert!(
                html.contains(&BASE64_STANDARD.encode(picture)),
                "{picture} is missing"
            );
        }
        assert!(
            !html.contains("http"),
            "the page must need nothing beside it"
        );
    }

    #[test]
    fn without_labels_the_page_says_what_is_left_out() {
        let mut result = result();
        result.evaluation.accuracies = None;
        result.improvement = None;
        let html = page_of(&result);
        for expected in [
            NO_LABELS,
            "0.250",
            "-3.500",
            "0.900",
            "none",
            "3 min 20 s",
            "no labels to colour",
        ] {
            assert!(html.contains(expected), "{expected} is missing");
        }
        for absent in ["Accuracy", "baseline</div>", "held-out kNN", "Colours are"] {
            assert!(!html.contains(absent), "{absent} is there");
        }
    }

    #[test]
    fn durations_are_read_in_their_largest_units() {
        for (seconds, expected) in [
            (0.04, "0.0 s"),
            (9.4, "9.4 s"),
            (59.4, "59 s"),
            (61.0, "1 min 01 s"),
            (7260.0, "2 h 01 min"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
