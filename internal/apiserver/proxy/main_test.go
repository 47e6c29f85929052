package proxy_test

import (
	"testing"

	"portico.dev/portico/internal/routes/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
