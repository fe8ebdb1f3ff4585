package daemon

import "testing"

func TestForwards(t *testing.T) {
	const text = "Hub -1 (u0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n" +
		"  TCP[HOST_FORWARD]  12       127.0.0.1 25557       10.0.2.15    22     0     0\r\n" +
		"  TCP[ESTABLISHED]   13       127.0.0.1 25558       10.0.2.15    22     0     0\r\n  UDP[HOST_FORWARD]  14               *  5353       10.0.2.15    53     0     0\r\n"
	for rule, want := range map[string]bool{
		"tcp:127.0.0.1:25557-:22": true, ":127.0.0.1:25557-:22": true, "::25557-10.0.2.15:22": true, "udp::5353-:53": true,
		"tcp::25558-:22": false, "udp:127.0.0.1:25557-:22": false, "tcp::5353-:53": false, "tcp::2555-:22": false, "rubbish": false,
	} {
		if got := forwards(text, rule); got != want {
			t.Errorf("%s: %v", rule, got)
		}
	}
}
