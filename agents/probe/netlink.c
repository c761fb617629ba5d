/* SPDX-License-Identifier: Apache-2.0 */
#include "netlink.h"
#include "probe.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* Room for `size` more bytes, zeroed, aligned as every part of netlink is. */
static void *netlink_room(struct netlink *netlink, size_t size)
{
	size_t aligned = NLMSG_ALIGN(size);

	if (netlink->length + aligned > sizeof(netlink->data))
		fail("netlink: the request does not fit into %zu bytes", sizeof(netlink->data));
	void *room = netlink->data + netlink->length;
	memset(room, 0, aligned);
	netlink->length += aligned;
	struct nlmsghdr *message = (void *)(netlink->data + netlink->message);
	message->nlmsg_len = (uint32_t)(netlink->length - netlink->message);
	return room;
}

void netlink_begin(struct netlink *netlink, uint16_t type, uint16_t flags, const void *header, size_t header_size)
{
	netlink->message = netlink->length;
	struct nlmsghdr *message = netlink_room(netlink, sizeof(*message));
	message->nlmsg_type = type;
	message->nlmsg_flags = flags | NLM_F_REQUEST;
	message->nlmsg_seq = 1;
	memcpy(netlink_room(netlink, header_size), header, header_size);
	if (flags & NLM_F_ACK)
		netlink->acks++;
}

void netlink_put(struct netlink *netlink, uint16_t type, const void *value, size_t size)
{
	struct nlattr *attribute = netlink_room(netlink, NLA_HDRLEN + size);

	attribute->nla_type = type;
	attribute->nla_len = (uint16_t)(NLA_HDRLEN + size);
	if (size)
		memcpy((char *)attribute + NLA_HDRLEN, value, size);
}

void netlink_put_text(struct netlink *netlink, uint16_t type, const char *text)
{
	netlink_put(netlink, type, text, strlen(text) + 1);
}

void netlink_put_u32(struct netlink *netlink, uint16_t type, uint32_t value)
{
	netlink_put(netlink, type, &value, sizeof(value));
}

size_t netlink_nest(struct netlink *netlink, uint16_t type)
{
	size_t nest = netlink->length;

	netlink_put(netlink, type | NLA_F_NESTED, NULL, 0);
	return nest;
}

void netlink_nest_end(struct netlink *netlink, size_t nest)
{
	struct nlattr *attribute = (void *)(netlink->data + nest);

	attribute->nla_len = (uint16_t)(netlink->length - nest);
}

/* Reads until every acknowledgement is there, or one is an error. */
static int netlink_wait(int fd, unsigned int acks)
{
	_Alignas(8) char answer[8192];

	while (acks) {
		ssize_t got = recv(fd, answer, sizeof(answer), 0);

		if (got < 0)
			return -1;
		size_t left = (size_t)got;
		for (struct nlmsghdr *message = (void *)answer; NLMSG_OK(message, left);
		     message = NLMSG_NEXT(message, left)) {
			if (message->nlmsg_type != NLMSG_ERROR)
				continue;
			const struct nlmsgerr *error = NLMSG_DATA(message);
			if (error->error) {
				errno = -error->error;
				return -1;
			}
			acks -= acks ? 1 : 0;
		}
	}
	return 0;
}

int netlink_send(struct netlink *netlink, int protocol)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	struct timeval patience = {.tv_sec = 5};
	int status = -1;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (sendto(fd, netlink->data, netlink->length, 0, (void *)&kernel, sizeof(kernel)) == (ssize_t)netlink->length)
		status = netlink_wait(fd, netlink->acks);
	int saved = errno;
	close(fd);
	errno = saved;
	return status;
}
