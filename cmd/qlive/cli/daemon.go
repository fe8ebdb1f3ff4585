package cli

import (
	"github.com/spf13/cobra"

	"qlive/vmstate"
)

func (a *app) daemonCmd() *cobra.Command {
	var flags DaemonFlags
	c := &cobra.Command{
		Use: "daemon", Short: "Run the daemon, in the foreground",
		Long: `Run the daemon: it owns the guests' memory, runs their QEMUs, answers on the socket and mounts the tree. It stays in the
foreground and logs to standard error. What is not given comes from the environment (QLIVE_SOCKET, QLIVE_MOUNT, QLIVE_RUN_DIR,
QLIVE_STATE_DIR), else from the configuration file, else is the default. The guests outlive it.`,
		Args: takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			if a.Daemon == nil {
				return vmstate.Errorf(vmstate.Unsupported, "cannot run the daemon: this build has none")
			}
			if c.Flags().Changed("socket") {
				flags.Socket = a.socket
			}
			return a.Daemon(c.Context(), flags)
		},
	}
	f := c.Flags()
	f.StringVar(&flags.Config, "config", "", "configuration file; /etc/qlive/qlive.yaml, if it is there")
	f.StringVar(&flags.Mount, "mount", "", "where to mount the tree (/mnt/qlive); none for no tree")
	f.StringVar(&flags.RunDir, "run-dir", "", "sockets, logs and journals (/run/qlive)")
	f.StringVar(&flags.StateDir, "state-dir", "", "definitions (/var/lib/qlive)")
	f.StringVar(&flags.Group, "group", "", "whose members may operate VMs (qlive)")
	f.StringVar(&flags.LogLevel, "log-level", "", "debug, info, warn or error (info)")
	return c
}
