//! A process that reads its configuration and logs it, by the interfaces of WASI.

wit_bindgen::generate!({
    inline: "
        package test:settings@0.1.0;
        world settings {
            import wasi:config/store@0.2.0-rc.1;
            import wasi:logging/logging@0.1.0-draft;
        }
    ",
    path: ["../../../../wit/config", "../../../../wit/logging"],
    world: "test:settings/settings",
    generate_all,
});

use wasi::{
    config::store,
    logging::logging::{Level, log},
};

struct Settings;
wasip2::cli::command::export!(Settings);

impl wasip2::exports::cli::run::Guest for Settings {
    fn run() -> Result<(), ()> {
        let colour = store::get("COLOUR").unwrap();
        log(Level::Warn, "colour", &format!("{colour:?}"));
        log(
            Level::Info,
            "",
            &format!("{:?}\nsecond", store::get("NONE")),
        );
        log(
            Level::Debug,
            "all",
            &format!("{:?}", store::get_all().unwrap()),
        );
        Ok(())
    }
}
