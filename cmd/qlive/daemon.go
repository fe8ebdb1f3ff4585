package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/rs/zerolog"

	"qlive/cmd/qlive/cli"
	"qlive/daemon"
	"qlive/internal/failpoint"
	"qlive/internal/relay"
	"qlive/internal/systemd"
	"qlive/vmstate"
)

// closeTime is how long the daemon may take to finish or undo what is in flight, and to unmount.
const closeTime = time.Minute

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, flags cli.DaemonFlags) (err error) {
	cfg, err := daemon.LoadConfig(flags.Config, os.Getenv)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		given string
		field *string
	}{
		{flags.Socket, &cfg.Socket}, {flags.Mount, &cfg.Mount}, {flags.RunDir, &cfg.RunDir}, {flags.StateDir, &cfg.StateDir},
		{flags.Group, &cfg.Group}, {flags.LogLevel, &cfg.LogLevel},
	} {
		if f.given != "" {
			*f.field = f.given
		}
	}
	level, err := zerolog.ParseLevel(cfg.LogLevel)
	if err != nil {
		return vmstate.Errorf(vmstate.Invalid, "cannot log at level %q", cfg.LogLevel).With("use debug, info, warn or error")
	}
	log := zerolog.New(os.Stderr).Level(level).With().Timestamp().Logger()
	points, err := failpoint.FromEnvironment()
	if err != nil {
		return err
	}
	manager, err := systemd.Open(systemd.Process())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, manager.Close()) }()
	d := daemon.New(cfg, daemon.Options{Version: version, Log: log, Failpoints: points, Systemd: manager, Relay: relay.Verb})
	if err := d.Open(ctx); err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer cancel()
		err = errors.Join(err, d.Close(closing))
	}()
	return d.Serve(ctx)
}

// dirs are the directories that a daemon of this host has without flags.
func dirs() (runDir, stateDir string, err error) {
	cfg, err := daemon.LoadConfig("", os.Getenv)
	return cfg.RunDir, cfg.StateDir, err
}
