//! Compares `docs/training.md` with the table of methods.

use std::path::Path;

use super::*;

/// What ends the part of the page that is written from the table.
const END: &str = "<!-- the table of methods ends here -->\n";

/// The page down to [`END`].
fn document() -> String {
    let mut text = String::from(
        "# Training an image encoder\n\n\
         The methods are `infonce::train::methods::TABLE`; a test compares the two. `infonce train KEY` runs one; the \
         settings in the last column, and their defaults, are keys of `[train]` in `config.toml` beside those that all \
         methods have. The loss is a key of [losses.md](losses.md), τ its temperature, rate the highest learning rate, warm-up the share of all steps over which it rises.\n\n\
         | method | key | what it contrasts | losses, default first | τ | rate | warm-up | own settings | source |\n\
         |---|---|---|---|---:|---:|---:|---|---|\n",
    );
    for method in TABLE {
        let others = method.losses().map(|loss| loss.key);
        let others = others.filter(|&key| key != method.loss);
        let losses = [method.loss].into_iter().chain(others);
        let losses: Vec<_> = losses.map(|key| format!("`{key}`")).collect();
        let settings = method.own_settings();
        let settings = settings.iter().map(|(key, value)| match value.as_str() {
            Some(word) => format!("`{key}` {word}"),
            None => format!("`{key}` {value}"),
        });
        let settings: Vec<_> = settings.collect();
        text += &format!(
            "| {} | `{}` | {} | {} | {} | {} | {} | {} | {} |\n",
            method.name,
            method.key,
            method.help,
            losses.join(", "),
            method.temperature,
            method.learning_rate,
            method.warmup,
            settings.join(", "),
            method.source,
        );
    }
    text + END
}

/// `INFONCE_WRITE_DOCS=1` writes the part of `docs/training.md` that is the table first.
#[test]
fn the_page_of_methods_begins_with_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/training.md");
    // The published package has no `docs/`.
    if !path.parent().unwrap().exists() {
        return;
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    let after = page.split_once(END).map_or("", |(_, after)| after);
    let expected = document() + after;
    if std::env::var_os("INFONCE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    } else {
        assert_eq!(page, expected);
    }
}

#[test]
fn keys_of_methods_are_unique_and_their_settings_name_them() {
    for method in TABLE {
        let found = Method::of(method.key).unwrap();
        assert_eq!(found.name, method.name);
        assert_eq!((method.settings)().method().name, method.name);
        let written = toml::Table::try_from((method.settings)()).unwrap();
        assert_eq!(written["method"].as_str(), Some(method.key));
        assert!(method.loss(method.loss).is_ok());
    }
    assert!(Method::of("no method").is_none());
}
